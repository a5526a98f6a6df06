// Package secret keeps the operator's secrets sealed at rest. A secret is a named
// set of KEY=value. Each one is a file NAME.age in the directory: a JSON object of
// its values, encrypted with age for the identity (an X25519 key) of this
// installation. The identity is the file "identity" in the same directory, mode
// 0600, or a file from outside such as a systemd credential, or text that is passed
// to this process and never written.
//
//	secrets/              0700
//	secrets/identity      0600
//	secrets/NAME.age      0600
//
// So a backup or a stray copy of the sealed files discloses nothing, and the age
// command can open them in an emergency: age -d -i identity NAME.age
//
// In memory, decrypted and read data is overwritten once its values have been
// extracted. The values themselves are Go strings, which cannot be overwritten:
// they last until they are garbage collected, and every Store has a copy of the
// identity. So a Store is opened for each use and not kept, and a process that has
// secrets protects its memory: see package crash.
package secret

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"filippo.io/age"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/pattern"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// The secrets that the service itself uses, and their keys.
const (
	AnthropicSecret = "anthropic-api-key"
	AnthropicKey    = "ANTHROPIC_API_KEY"

	InternalSecret      = "modal-internal-secret"
	InternalKey         = "MODAL_INTERNAL_SECRET"
	InternalPreviousKey = "MODAL_INTERNAL_SECRET_PREVIOUS" // still valid after a rotation

	PreviewSecret = "preview-key" // links to games and their host names are derived from it
	PreviewKey    = "PREVIEW_KEY"

	LinkSecret = "job-link-key" // links to the events of jobs are signed with it
	LinkKey    = "JOB_LINK_KEY"
)

// Bounds of one secret.
const (
	MaxValueBytes = 64 << 10 // of one value
	MaxTotalBytes = 1 << 20  // of all values together
	MaxKeys       = 64
	maxKeyBytes   = 256
	maxNameBytes  = 63
	maxAPIKey     = 4 << 10
)

const (
	identityName = "identity"
	extension    = ".age"

	dirMode  = 0o700
	fileMode = 0o600
)

var (
	nameForm = pattern.New(`^[a-z0-9][a-z0-9-]*$`) // a counted repeat would cost every start
	keyForm  = pattern.New(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// Store is a directory of sealed secrets with its identity. It has no descriptors,
// so it need not be closed. Its methods are safe for concurrent use, also by
// several processes.
type Store struct {
	dir        string
	mounted    string // see WithMounted; "" if there is no such directory
	identities []age.Identity
	recipient  age.Recipient
}

// Info describes a secret without its values.
type Info struct {
	Name    string
	Keys    []string  // sorted; nil if a sealed one cannot be opened
	Created time.Time // when these values were stored; zero if Mounted
	Mounted bool      // it comes from the directory of WithMounted
	Err     error     // why the secret cannot be opened
}

// Init creates the directory and, unless identityFile names one from outside, the
// identity. Existing ones stay; created reports whether an identity was created.
// Sealed secrets without their identity are an error, because a new one would not
// open them.
func Init(dir, identityFile string) (created bool, err error) {
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return false, fileError("create the directory of secrets", dir, err)
	}
	if err := checkDir(dir); err != nil {
		return false, err
	}
	root, unlock, err := lock(dir)
	if err != nil {
		return false, err
	}
	defer unlock()
	if err := statefile.Sweep(root); err != nil {
		return false, fileError("remove unfinished secrets", dir, err)
	}
	if identityFile == "" {
		created, err = createIdentity(root)
		if err != nil {
			return false, err
		}
	}
	_, err = Open(dir, identityFile)
	return created, err
}

// InitGiven is Init for an identity that is passed as the text of an identity file.
// The text is not written to disk.
func InitGiven(dir, identity string) error {
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return fileError("create the directory of secrets", dir, err)
	}
	_, err := OpenGiven(dir, identity)
	return err
}

// Open opens the secrets in dir with the identity in identityFile; "" means the one
// that Init created. Every error has CodeSetup and a hint.
func Open(dir, identityFile string) (*Store, error) {
	if err := checkExists(dir); err != nil {
		return nil, err
	}
	identities, err := loadIdentities(dir, identityFile)
	if err != nil {
		return nil, err
	}
	return storeWith(dir, identities), nil
}

// OpenGiven is Open for an identity that is passed as the text of an identity file.
func OpenGiven(dir, identity string) (*Store, error) {
	identities, err := givenIdentities(identity)
	if err != nil {
		return nil, err
	}
	if err := checkExists(dir); err != nil {
		return nil, err
	}
	return storeWith(dir, identities), nil
}

// storeWith returns a Store for which the first identity seals and each of them
// opens.
func storeWith(dir string, identities []*age.X25519Identity) *Store {
	s := &Store{dir: dir, recipient: identities[0].Recipient()}
	for _, id := range identities {
		s.identities = append(s.identities, id)
	}
	return s
}

// checkExists refuses a directory that is missing or not private.
func checkExists(dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return errSetup("there are no secrets yet in "+dir, "run: dreamcore setup", err)
	}
	return checkDir(dir)
}

// Create seals a secret. CodeInvalid: a name, key or value is not allowed;
// CodeConflict: the secret exists and overwrite is false.
func (s *Store) Create(name string, values map[string]string, overwrite bool) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if err := checkValues(values); err != nil {
		return err
	}
	if err := s.checkNotMounted(name); err != nil {
		return err
	}
	root, unlock, err := lock(s.dir)
	if err != nil {
		return err
	}
	defer unlock()
	return s.write(root, name, values, overwrite)
}

// Get opens a secret. CodeNotFound: there is no secret of that name; CodeSetup: it
// is damaged or sealed for another identity.
func (s *Store) Get(name string) (map[string]string, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	values, mounted, err := s.readMounted(name)
	if mounted || err != nil {
		return values, err
	}
	return s.read(name)
}

// Value returns one value of a secret, with the errors of Get. CodeNotFound may
// also mean that the secret has no such key.
func (s *Store) Value(name, key string) (string, error) {
	values, err := s.Get(name)
	if err != nil {
		return "", err
	}
	v, ok := values[key]
	if !ok {
		return "", &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "secret " + name + " has no key " + key, Hint: "show its keys with: dreamcore secret list"}
	}
	return v, nil
}

// List returns all secrets, sorted by name. One that cannot be opened is
// listed with its Err.
func (s *Store) List() ([]Info, error) {
	mounted, keys, err := s.mountedNames()
	if err != nil {
		return nil, err
	}
	var infos []Info
	for _, name := range mounted {
		_, _, err := s.readMounted(name)
		infos = append(infos, Info{Name: name, Keys: keys[name], Mounted: true, Err: err})
	}
	names, err := sealedNames(s.dir)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if keys[name] != nil {
			continue // the mounted one hides it
		}
		stat, err := os.Stat(s.path(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, fileError("stat secret "+name, s.path(name), err)
		}
		info := Info{Name: name, Created: stat.ModTime()}
		values, err := s.read(name)
		info.Err = err
		for k := range values {
			info.Keys = append(info.Keys, k)
		}
		slices.Sort(info.Keys)
		infos = append(infos, info)
	}
	slices.SortFunc(infos, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	return infos, nil
}

// Delete removes a secret permanently. CodeNotFound: there is no secret of that
// name.
func (s *Store) Delete(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if err := s.checkNotMounted(name); err != nil {
		return err
	}
	_, unlock, err := lock(s.dir)
	if err != nil {
		return err
	}
	defer unlock()
	err = os.Remove(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return errNotFound(name, err)
	}
	if err == nil {
		err = statefile.Sync(s.dir)
	}
	if err != nil {
		return fileError("delete secret "+name, s.path(name), err)
	}
	return nil
}

func (s *Store) path(name string) string { return filepath.Join(s.dir, name+extension) }

// lock opens the directory and keeps other writers out, of this process and of
// others, until unlock is called.
func lock(dir string) (root *os.Root, unlock func(), err error) {
	root, err = os.OpenRoot(dir)
	if err != nil {
		return nil, nil, fileError("open the directory of secrets", dir, err)
	}
	d, err := root.Open(".")
	if err != nil {
		root.Close()
		return nil, nil, fileError("open the directory of secrets", dir, err)
	}
	unlock = func() {
		d.Close()
		root.Close()
	}
	if err := statefile.Lock(context.Background(), d); err != nil {
		unlock()
		return nil, nil, fileError("lock the directory of secrets", dir, err)
	}
	return root, unlock, nil
}

// sealedNames returns the names of all sealed secrets, sorted.
func sealedNames(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fileError("list the secrets", dir, err)
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), extension); ok && CheckName(name) == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// CheckName refuses, with CodeInvalid, names that are not 1 to 63 lower-case
// letters, digits and dashes with no leading dash.
func CheckName(name string) error {
	if len(name) <= maxNameBytes && nameForm().MatchString(name) {
		return nil
	}
	return &dreamcore.Error{
		Code:    dreamcore.CodeInvalid,
		Message: "Invalid secret name",
		Hint:    "use 1 to 63 lower-case letters, digits and dashes, such as my-secret",
	}
}

func validKey(key string) bool {
	return len(key) <= maxKeyBytes && keyForm().MatchString(key)
}

// checkValues never quotes a key or a value: they may have been mixed up.
func checkValues(values map[string]string) error {
	if len(values) == 0 || len(values) > MaxKeys {
		return errValue("a secret has 1 to 64 keys", "give at least one KEY=value")
	}
	total := 0
	for key, value := range values {
		if !validKey(key) {
			return errValue("Invalid key of a secret", "use letters, digits and underscores, not starting with a digit")
		}
		if err := checkValue(key, value); err != nil {
			return err
		}
		total += len(value)
	}
	if total > MaxTotalBytes {
		return errValue("the values of the secret are too long: at most 1 MiB together", "split it into several secrets")
	}
	return nil
}

func checkValue(key, value string) error {
	switch {
	case value == "":
		return errValue("the value of "+key+" is empty", "set it; an unset shell variable is an empty value")
	case len(value) > MaxValueBytes:
		return errValue("the value of "+key+" is too long: at most 64 KiB", "keep large data in a file")
	case !utf8.ValidString(value) || strings.ContainsRune(value, 0):
		return errValue("the value of "+key+" is not text", "encode it first, for example with base64")
	}
	return nil
}

// CheckAPIKey reports, with CodeInvalid, a key that cannot be one of a model API:
// it must not be empty, have white space or control characters, or exceed 4 KiB.
// The vendor's prefix is not required, because gateways issue keys of their own.
// The error does not quote the key.
func CheckAPIKey(key string) error {
	hint := "paste the key again, without quotes or line breaks"
	switch {
	case key == "":
		return errValue("the API key is empty", "get a key from the vendor's console, or go without one: --model-script demo")
	case len(key) > maxAPIKey:
		return errValue("the API key is too long: at most 4 KiB", hint)
	case !utf8.ValidString(key):
		return errValue("the API key is not text", hint)
	case strings.ContainsFunc(key, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }):
		return errValue("the API key has white space or control characters in it", hint)
	}
	if why := Miswritten(key); why != "" {
		return errValue("the value is not a bare API key: "+why, "put only the key into the file, on one line: no name, no quotes")
	}
	return nil
}

var (
	// envLine matches a line of a .env file or a shell script. A key may end with
	// the equals signs of base64, so the first one must be followed by something
	// else.
	envLine = pattern.New(`^([A-Z_][A-Z0-9_]*|[A-Za-z_][A-Za-z0-9_.-]*(?i:key|token|secret))=+[^=]`)
	// labelled matches a line of a header or of YAML.
	labelled = pattern.New(`^(?i:bearer|basic|authorization|(x-)?api[-_]?key|[a-z0-9_.-]*[-_](key|token|secret))[:=]`)
)

// Miswritten describes the fault of a credential that was copied with its
// surroundings, as from a .env file, a header or a program. It returns "" for one
// that looks right, and never quotes the credential.
func Miswritten(key string) string {
	first, _ := utf8.DecodeRuneInString(key)
	last, _ := utf8.DecodeLastRuneInString(key)
	const quotes = "\"'`“”‘’„«»"
	switch {
	case key == "":
		return ""
	case strings.ContainsRune(quotes, first) || strings.ContainsRune(quotes, last):
		return "it is in quotes"
	case envLine().MatchString(key):
		return "it is a line of a .env file, NAME=KEY"
	case labelled().MatchString(key):
		return "a name such as Bearer: stands in front of it"
	case first == '$':
		return "it is the name of a variable, not its value"
	case first == '{' || first == '[' || first == '<' || first == '(':
		return "it begins with a bracket"
	case last == ',' || last == ';':
		return "it ends with a comma or a semicolon"
	case strings.IndexFunc(key, func(r rune) bool { return r > '~' }) >= 0:
		return "it has characters that no key has"
	}
	return ""
}

// NewInternalSecret returns a new value for InternalKey: 32 random bytes in
// hexadecimal digits.
func NewInternalSecret() string {
	var b [32]byte
	rand.Read(b[:]) // never returns an error
	return hex.EncodeToString(b[:])
}

func errValue(message, hint string) error {
	return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: message, Hint: hint}
}

// errSetup returns the error of a machine or a state directory that is not ready. err
// may be nil.
func errSetup(message, hint string, err error) error {
	return &dreamcore.Error{Code: dreamcore.CodeSetup, Message: message, Hint: hint, Err: err}
}

func errNotFound(name string, cause error) error {
	hint := "create it: dreamcore secret create " + name + " KEY=value"
	if name == AnthropicSecret || name == InternalSecret {
		hint = "run: dreamcore setup"
	}
	return &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "there is no secret " + name, Hint: hint, Err: cause}
}

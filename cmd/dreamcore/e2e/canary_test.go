package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
)

// Every test of this package is also a search: all output of the program, its
// answers and its state directory are searched for every secret of the
// installation, in plain text, hexadecimal and base64.

// minCanary is the shortest value that is searched for: shorter ones in tests are
// ordinary words.
const minCanary = 16

// needles are the encodings of secrets that are searched for.
type needles [][]byte

// needlesOf returns the encodings of values.
func needlesOf(values ...string) (n needles) {
	for _, v := range values {
		if len(v) < minCanary {
			continue
		}
		plain := []byte(v)
		n = append(n, plain, []byte(hex.EncodeToString(plain)), []byte(strings.ToUpper(hex.EncodeToString(plain))))
		// Base64 of a value depends on its offset modulo three; its first and last
		// letters may contain bits of its neighbours.
		for before := range 3 {
			for _, enc := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
				text := enc.EncodeToString(append(make([]byte, before), plain...))
				n = append(n, []byte(text[(before*8+5)/6:(before+len(plain))*8/6]))
			}
		}
	}
	return n
}

func (n needles) in(text []byte) bool {
	for _, needle := range n {
		if bytes.Contains(text, needle) {
			return true
		}
	}
	return false
}

func (n needles) longest() int {
	most := 0
	for _, needle := range n {
		most = max(most, len(needle))
	}
	return most
}

// inFile searches a file and skips holes: the file systems of users are large and
// nearly empty.
func (n needles) inFile(name string) (bool, error) {
	f, err := os.Open(name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	const piece = 1 << 20
	buf := make([]byte, piece+n.longest())
	for at := int64(0); ; {
		at, err = unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return false, nil // nothing behind it
		}
		if err != nil {
			return false, err
		}
		read, err := f.ReadAt(buf, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		if n.in(buf[:read]) {
			return true, nil
		}
		at += piece // the rest is read once more, for what lies across
	}
}

// inTree searches all files at and below dir, except in the given directories, and
// returns the places of the findings.
func (n needles) inTree(dir string, but ...string) (found []string, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENAMETOOLONG) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, b := range but {
			if path == filepath.Join(dir, b) {
				return fs.SkipDir
			}
		}
		if n.in([]byte(d.Name())) {
			found = append(found, path)
		}
		if !d.Type().IsRegular() {
			return nil
		}
		is, err := n.inFile(path)
		if is {
			found = append(found, path)
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENAMETOOLONG) { // what a test made below another directory
			return nil
		}
		return err
	})
	return found, err
}

// record holds all output and answers of a host's programs.
type record struct {
	mu      sync.Mutex
	texts   []*recorded
	secrets []string // beside those that are sealed at the end
}

type recorded struct {
	record *record
	what   string
	text   bytes.Buffer // guarded by record.mu
}

func (r *recorded) Write(p []byte) (int, error) {
	r.record.mu.Lock()
	defer r.record.mu.Unlock()
	return r.text.Write(p)
}

// output returns a writer whose content is searched.
func (r *record) output(format string, args ...any) *recorded {
	r.mu.Lock()
	defer r.mu.Unlock()
	o := &recorded{record: r, what: fmt.Sprintf(format, args...)}
	r.texts = append(r.texts, o)
	return o
}

// knows adds a secret that is not, or not always, sealed in the installation.
func (r *record) knows(values ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.secrets = append(r.secrets, values...)
}

// tells reports whether a command prints a secret on purpose.
func tells(args []string) bool {
	line := strings.Join(args, " ") + " "
	for _, c := range []string{"secret show ", "secret rotate ", "setup "} {
		if strings.HasPrefix(line, c) && !strings.Contains(line, "--finish") {
			return true
		}
	}
	return false
}

// search returns the places of leaked secrets.
func (r *record) search(state string) (found []string, err error) {
	values, err := sealedValues(filepath.Join(state, "secrets"))
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	n := needlesOf(append(values, r.secrets...)...)
	for _, o := range r.texts {
		if n.in(o.text.Bytes()) {
			found = append(found, fmt.Sprintf("%s:\n%s", o.what, o.text.Bytes()))
		}
	}
	if _, err := os.Stat(state); err != nil {
		return found, nil
	}
	files, err := n.inTree(state, "secrets")
	return append(found, files...), err
}

// sealedValues returns all values of the sealed secrets in dir and the identity.
// Secrets that cannot be opened were damaged by the test.
func sealedValues(dir string) (values []string, err error) {
	raw, err := os.ReadFile(filepath.Join(dir, "identity"))
	if err != nil {
		return nil, nil
	}
	for line := range strings.Lines(string(raw)) {
		if strings.HasPrefix(line, "AGE-SECRET-KEY-") {
			values = append(values, strings.TrimSpace(line))
		}
	}
	store, err := secret.Open(dir, "")
	if err != nil {
		return values, nil
	}
	infos, err := store.List()
	if err != nil {
		return nil, err
	}
	for _, i := range infos {
		sealed, err := store.Get(i.Name)
		if err != nil {
			continue
		}
		for _, v := range sealed {
			values = append(values, v)
		}
	}
	return values, nil
}

// keepsSecrets searches at the end of the test.
func (h *host) keepsSecrets() {
	t := h.t
	h.said = &record{secrets: []string{canary}}
	t.Cleanup(func() {
		found, err := h.said.search(h.state)
		if err != nil {
			t.Errorf("search for secrets: %v", err)
		}
		for _, f := range found {
			t.Errorf("a secret is in %s", f)
		}
	})
}

// A search that never finds anything proves nothing.
func TestTheSearchFindsSecrets(t *testing.T) {
	h := sealedHost(t)
	raw, err := os.ReadFile(filepath.Join(h.state, "secrets/identity"))
	if err != nil {
		t.Fatal(err)
	}
	key := strings.TrimSpace(string(raw[bytes.LastIndex(raw, []byte("AGE-SECRET-KEY-")):]))
	for _, value := range []string{canary, key} {
		for _, text := range []string{
			"x" + value + "y", hex.EncodeToString([]byte("x" + value)), fmt.Sprintf("%X", value+"y"),
			base64.StdEncoding.EncodeToString([]byte(value)), base64.StdEncoding.EncodeToString([]byte("1" + value + "2")),
			base64.URLEncoding.EncodeToString([]byte("12" + value + "?>")), base64.RawStdEncoding.EncodeToString([]byte("user:" + value)),
		} {
			said := &record{secrets: []string{canary}}
			fmt.Fprint(said.output("a log"), "before "+text+" after")
			if found, err := said.search(h.state); err != nil || len(found) != 1 {
				t.Errorf("%q in the output: found %q, %v", text, found, err)
			}
			// Across two extents of a sparse file.
			file := filepath.Join(h.state, "a file")
			f, err := os.Create(file)
			if err != nil {
				t.Fatal(err)
			}
			if _, err = f.WriteAt([]byte(text), 5<<20-10); err == nil {
				err = f.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
			if found, err := new(record).search(h.state); err != nil || (len(found) != 1) {
				t.Errorf("%q in a file: found %q, %v", text, found, err)
			}
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}
	}
	said := new(record)
	fmt.Fprint(said.output("a log"), canary[1:], key[1:])
	if found, err := said.search(h.state); err != nil || len(found) != 0 {
		t.Errorf("not a secret: found %q, %v", found, err)
	}
	if r := h.run("secret", "show", "anthropic-api-key"); !needlesOf(canary).in([]byte(r.stdout)) || len(h.said.texts) == 0 {
		t.Error("the search sees nothing of what commands print")
	}
}

package prompt

import (
	"cmp"
	"embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// Dir is the directory in the global volume with the operator's endpoints.
const Dir = "prompts"

// extension of an endpoint's file.
const extension = ".yaml"

// maxFiles bounds the files in the directory.
const maxFiles = 500

// lookAge is how long the files are assumed to be unchanged.
const lookAge = time.Second

//go:embed shipped/*.yaml
var shippedFiles embed.FS

// shipped returns the embedded endpoints, by name. The map is not changed.
var shipped = sync.OnceValue(parseShipped)

func parseShipped() map[string]*Endpoint {
	entries, err := shippedFiles.ReadDir("shipped")
	if err != nil {
		panic("prompt: embedded endpoints: " + err.Error())
	}
	all := map[string]*Endpoint{}
	for _, entry := range entries {
		name := strings.TrimSuffix(entry.Name(), extension)
		file, err := shippedFiles.ReadFile("shipped/" + entry.Name())
		if err == nil {
			all[name], err = Parse(name, file)
		}
		if err != nil {
			panic("prompt: embedded endpoint " + name + ": " + err.Error()) // cannot happen: a test parses them
		}
		all[name].Shipped = true
	}
	return all
}

// Shipped returns the names of the embedded endpoints, sorted.
func Shipped() []string { return slices.Sorted(maps.Keys(shipped())) }

// Source is the source of endpoints.
type Source struct {
	// Open opens the global volume; the Set closes it. The error has CodeNotFound
	// if the volume does not exist yet.
	Open func() (*os.Root, error)
	// Reserved are the names of endpoints that are not prompts: a file with such
	// a name is rejected, and so is one whose host label would hide theirs.
	Reserved []string
	Logger   *slog.Logger     // optional
	Now      func() time.Time // time.Now if nil
}

// Problem is a file, or the directory, that cannot be used as it is.
type Problem struct {
	File string // relative to the global volume
	Err  error
	Kept bool // an older version of the endpoint, or the shipped one, is used
}

// Set holds the current endpoints: the embedded ones and those of the global
// volume, whose changes it notices by itself. It is safe for concurrent use.
type Set struct {
	src     Source
	shipped map[string]*Endpoint

	looked atomic.Int64 // time of the last look at the files, in nanoseconds
	now    atomic.Pointer[snapshot]

	mu      sync.Mutex
	files   map[string]*file // guarded by mu: by name
	fault   string           // guarded by mu: why the directory cannot be read; "" if it can
	surplus bool             // guarded by mu: the directory has more than maxFiles
}

// snapshot is the state of a Set between two changes.
type snapshot struct {
	endpoints map[string]*Endpoint
	problems  []Problem
	version   uint64
}

// file is a file of the directory.
type file struct {
	stat
	good *Endpoint // the last valid version; may be nil
	err  error     // of the current version
}

// Open returns the endpoints of src. Errors in files are reported by Problems; the
// error of Open means that the directory cannot be read.
func Open(src Source) (*Set, error) {
	if src.Logger == nil {
		src.Logger = slog.New(slog.DiscardHandler)
	}
	if src.Now == nil {
		src.Now = time.Now
	}
	s := &Set{src: src, shipped: shipped(), files: map[string]*file{}}
	s.now.Store(&snapshot{endpoints: s.shipped})
	s.mu.Lock()
	defer s.mu.Unlock()
	return s, s.look()
}

// current returns the endpoints. It checks the files again if the last check is too
// old; callers never wait for the check of another caller.
func (s *Set) current() *snapshot {
	now := s.src.Now().UnixNano()
	if last := s.looked.Load(); now-last >= int64(lookAge) || now < last {
		if s.mu.TryLock() {
			s.report(s.look())
			s.mu.Unlock()
		}
	}
	return s.now.Load()
}

// report logs once why the directory cannot be read. It must be called with mu
// held.
func (s *Set) report(err error) {
	fault := ""
	if err != nil {
		fault = err.Error()
	}
	if fault != s.fault && fault != "" {
		s.src.Logger.Error("the prompt endpoints of the global volume cannot be read: the last known ones stay in use", "error", err)
	}
	s.fault = fault
}

// Get returns the endpoint of that name, or nil.
func (s *Set) Get(name string) *Endpoint { return s.current().endpoints[name] }

// Names returns the names of the endpoints, sorted, and the version of the
// list, which changes with it.
func (s *Set) Names() ([]string, uint64) {
	now := s.current()
	return slices.Sorted(maps.Keys(now.endpoints)), now.version
}

// Version returns the version of the list of endpoints.
func (s *Set) Version() uint64 { return s.current().version }

// Problems returns the files that cannot be used as they are, sorted by name,
// after a problem of the directory.
func (s *Set) Problems() []Problem { return s.current().problems }

// look applies the changes in the directory. It must be called with mu held.
func (s *Set) look() error {
	s.looked.Store(s.src.Now().UnixNano())
	root, err := s.src.Open()
	if dreamcore.CodeOf(err) == dreamcore.CodeNotFound {
		return nil
	}
	if err != nil {
		return unreadable("open the global volume", err)
	}
	defer root.Close()
	names, more, err := readNames(root, Dir, maxFiles)
	if err != nil {
		return unreadable("read the directory "+Dir+" of the global volume", err)
	}
	changed := s.surplus != more
	if s.surplus = more; more && changed {
		s.src.Logger.Error("some prompt endpoints of the global volume are not used", "dir", Dir, "error", errSurplus)
	}
	there := map[string]bool{}
	for _, base := range names {
		if strings.HasPrefix(base, ".") || strings.HasSuffix(base, "~") {
			continue // temporary files of editors and copies
		}
		there[base] = true
		changed = s.lookAt(root, base) || changed
	}
	for base := range s.files {
		if !there[base] {
			delete(s.files, base)
			s.src.Logger.Info("the file of a prompt endpoint was removed", "file", Dir+"/"+base)
			changed = true
		}
	}
	if changed {
		s.publish()
	}
	return nil
}

func unreadable(action string, err error) error {
	return &dreamcore.Error{
		Code: dreamcore.CodeSetup, Reason: ReasonVolume, Message: "cannot " + action, Err: err,
		Hint: "check the content of the volume " + volume.Global,
	}
}

// errSurplus is the problem of a directory with more than maxFiles.
var errSurplus = &dreamcore.Error{
	Code: dreamcore.CodeInvalid, Reason: ReasonFiles, Message: fmt.Sprintf("the directory has more than %d files: the others are not used", maxFiles),
	Hint: "remove files that are not prompt endpoints",
}

// Reasons of errors.
const (
	ReasonVolume dreamcore.Reason = "prompt.volume" // the global volume cannot be read
	ReasonFiles  dreamcore.Reason = "prompt.files"  // too many files
	ReasonFile   dreamcore.Reason = "prompt.file"   // a file is not a valid endpoint
)

// lookAt reads a file if it has changed, and reports whether it has. It must be
// called with mu held.
func (s *Set) lookAt(root *os.Root, base string) bool {
	old := cmp.Or(s.files[base], &file{})
	next := &file{good: old.good} // without stat: a file that cannot be read
	f, info, err := tree.OpenFile(root, Dir+"/"+base)
	if err == nil {
		defer f.Close()
		next.stat = statOf(info)
	}
	if s.files[base] != nil && old.stat == next.stat {
		return false
	}
	s.files[base] = next
	var e *Endpoint
	if err != nil {
		err = errors.New("it is not a readable regular file")
	} else if text, failed := io.ReadAll(io.LimitReader(f, MaxFileBytes+1)); failed != nil {
		next.stat, err = stat{}, failed // the next look tries again
	} else {
		e, err = s.parse(base, text)
	}
	if err != nil {
		next.err = err
		s.src.Logger.Error("the file of a prompt endpoint is invalid: its previous version stays in use", "file", Dir+"/"+base, "error", err, "hint", "correct the file; all prompt endpoints can be checked together")
		return true
	}
	next.good = e
	s.src.Logger.Info("a prompt endpoint is in use", "endpoint", e.Name, "file", Dir+"/"+base)
	return true
}

func (s *Set) parse(base string, text []byte) (*Endpoint, error) {
	name, ok := strings.CutSuffix(base, extension)
	if !ok {
		return nil, &dreamcore.Error{Code: dreamcore.CodeInvalid, Reason: ReasonFile, Message: "the file's name must end with " + extension, Hint: "rename it, or move it out of " + Dir}
	}
	if err := s.allowed(name); err != nil {
		return nil, err
	}
	return Parse(name, text)
}

// allowed rejects names that would hide the address of another endpoint.
func (s *Set) allowed(name string) error {
	for _, r := range s.src.Reserved {
		if name == r || strings.HasSuffix(name, "_"+r) {
			return &dreamcore.Error{
				Code: dreamcore.CodeInvalid, Reason: ReasonFile, Message: fmt.Sprintf("the name %s would hide the endpoint %s, which is not a prompt endpoint", name, r),
				Hint: "give the file another name",
			}
		}
	}
	return nil
}

// publish makes the files that were read the current state. It must be called with
// mu held.
func (s *Set) publish() {
	next := &snapshot{endpoints: maps.Clone(s.shipped), version: s.now.Load().version + 1}
	if s.surplus {
		next.problems = append(next.problems, Problem{File: Dir, Err: errSurplus})
	}
	for _, base := range slices.Sorted(maps.Keys(s.files)) {
		f := s.files[base]
		if f.good != nil {
			next.endpoints[f.good.Name] = f.good
		}
		if f.err != nil {
			next.problems = append(next.problems, Problem{
				File: Dir + "/" + base, Err: f.err,
				Kept: next.endpoints[strings.TrimSuffix(base, extension)] != nil,
			})
		}
	}
	s.now.Store(next)
}

package prompt

import (
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
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// Dir is the directory of the global volume with the operator's endpoints.
const Dir = "prompts"

// extension of an endpoint's file.
const extension = ".yaml"

// maxFiles bounds the files of the directory.
const maxFiles = 500

// lookAge is how long the files are taken for unchanged.
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
			panic("prompt: embedded endpoint " + name + ": " + err.Error()) // a test parses them
		}
		all[name].Shipped = true
	}
	return all
}

// Shipped returns the names of the embedded endpoints, sorted.
func Shipped() []string { return slices.Sorted(maps.Keys(shipped())) }

// Source is where endpoints come from.
type Source struct {
	// Open opens the global volume; the Set closes it. CodeNotFound: there is
	// none yet.
	Open func() (*os.Root, error)
	// Reserved are the names of endpoints that are not prompts: a file of such
	// a name is refused, and one whose host label would hide theirs.
	Reserved []string
	Logger   *slog.Logger     // nil: no log
	Now      func() time.Time // nil: time.Now
}

// Problem is a file that cannot be used as it is.
type Problem struct {
	File string // relative to the global volume
	Err  error
	Kept bool // an older version of the endpoint, or the shipped one, answers
}

// Set is the endpoints that there are now: the embedded ones and those of the
// global volume, whose changes it takes up by itself. It is safe for
// concurrent use.
type Set struct {
	src     Source
	shipped map[string]*Endpoint

	looked atomic.Int64 // when the files were looked at, in nanoseconds
	now    atomic.Pointer[snapshot]

	mu    sync.Mutex
	files map[string]*file // guarded by mu; by name
	fault string           // guarded by mu; why the directory cannot be read, "" when it can
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
	good *Endpoint // the last version without a fault; nil: there was none
	err  error     // of the version that is there
}

// Open returns the endpoints of src. What is wrong with files is in Problems;
// the error is that the directory cannot be read.
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

// current returns the endpoints, after a look at the files where the last one
// is too long ago. Callers do not wait for the look of another one.
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

// report logs once why the directory cannot be read. s.mu is held.
func (s *Set) report(err error) {
	fault := ""
	if err != nil {
		fault = err.Error()
	}
	if fault != s.fault && fault != "" {
		s.src.Logger.Error("the prompt endpoints of the global volume cannot be read: the last ones stay", "error", err)
	}
	s.fault = fault
}

// Get returns an endpoint, nil where there is none of that name.
func (s *Set) Get(name string) *Endpoint { return s.current().endpoints[name] }

// Names returns the names of the endpoints, sorted, and the version of the
// list, which changes with it.
func (s *Set) Names() ([]string, uint64) {
	now := s.current()
	return slices.Sorted(maps.Keys(now.endpoints)), now.version
}

// Version returns the version of the list of endpoints.
func (s *Set) Version() uint64 { return s.current().version }

// Problems returns the files that cannot be used as they are, sorted by name.
func (s *Set) Problems() []Problem { return s.current().problems }

// look takes up what has changed in the directory. s.mu is held.
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
	names, err := readNames(root, Dir, maxFiles)
	if err != nil {
		return unreadable("read the directory "+Dir+" of the global volume", err)
	}
	changed := false
	there := map[string]bool{}
	for _, base := range names {
		if strings.HasPrefix(base, ".") || strings.HasSuffix(base, "~") {
			continue // what editors and copies leave for a moment
		}
		there[base] = true
		changed = s.lookAt(root, base) || changed
	}
	for base := range s.files {
		if !there[base] {
			delete(s.files, base)
			s.src.Logger.Info("a prompt endpoint's file is gone", "file", Dir+"/"+base)
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
		Code: dreamcore.CodeSetup, Message: "cannot " + action, Err: err,
		Hint: "see what is there with: dreamcore volume ls dreamcore-global",
	}
}

// lookAt takes up a file and reports whether it has changed. s.mu is held.
func (s *Set) lookAt(root *os.Root, base string) bool {
	old := s.files[base]
	f, info, err := tree.OpenFile(root, Dir+"/"+base)
	if err != nil {
		if old != nil && old.err != nil && old.stat == (stat{}) {
			return false // as before
		}
		s.take(base, old, stat{}, nil, errors.New("it is not a regular file that can be read"))
		return true
	}
	defer f.Close()
	st := statOf(info)
	if old != nil && old.stat == st {
		return false
	}
	text, err := io.ReadAll(io.LimitReader(f, MaxFileBytes+1))
	if err != nil {
		s.take(base, old, stat{}, nil, err)
		return true
	}
	e, err := s.parse(base, text)
	s.take(base, old, st, e, err)
	return true
}

// take remembers a version of a file. s.mu is held.
func (s *Set) take(base string, old *file, st stat, e *Endpoint, err error) {
	next := &file{stat: st, good: e, err: err}
	if err != nil && old != nil {
		next.good = old.good
	}
	s.files[base] = next
	if err != nil {
		s.src.Logger.Error("a prompt endpoint's file is broken: what answered before stays", "file", Dir+"/"+base, "error", err,
			"hint", "run: dreamcore prompts check")
		return
	}
	s.src.Logger.Info("a prompt endpoint is taken up", "endpoint", e.Name, "file", Dir+"/"+base)
}

func (s *Set) parse(base string, text []byte) (*Endpoint, error) {
	name, ok := strings.CutSuffix(base, extension)
	if !ok {
		return nil, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "the file's name must end with " + extension, Hint: "rename it, or move it out of " + Dir}
	}
	if err := s.allowed(name); err != nil {
		return nil, err
	}
	return Parse(name, text)
}

// allowed refuses names that would take an address from another endpoint.
func (s *Set) allowed(name string) error {
	for _, r := range s.src.Reserved {
		if name == r || strings.HasSuffix(name, "_"+r) {
			return &dreamcore.Error{
				Code: dreamcore.CodeInvalid, Message: fmt.Sprintf("the name %s would hide the endpoint %s, which is not a prompt endpoint", name, r),
				Hint: "give the file another name",
			}
		}
	}
	return nil
}

// publish makes what was looked at the current state. s.mu is held.
func (s *Set) publish() {
	next := &snapshot{endpoints: maps.Clone(s.shipped), version: s.now.Load().version + 1}
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

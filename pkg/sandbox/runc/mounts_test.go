package runc

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/engine"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

func TestFreeMountPointCoversNoNeededPath(t *testing.T) {
	base := t.TempDir()
	old := mountPoints
	t.Cleanup(func() { mountPoints = old })
	mountPoints = nil
	for _, name := range []string{"missing", "a", "b"} {
		mountPoints = append(mountPoints, filepath.Join(base, name))
	}
	for _, name := range []string{"a/data/x", "b"} {
		if err := os.MkdirAll(filepath.Join(base, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(filepath.Join(base, "a/data"), link); err != nil {
		t.Fatal(err)
	}
	in := func(name string) string { return filepath.Join(base, name) }
	tests := map[string]struct {
		paths []string
		want  string // "" if no mount point is free
	}{
		"nothing is needed":            {nil, in("a")},
		"a sibling directory":          {[]string{"/usr", in("ab"), base}, in("a")},
		"a directory in the first":     {[]string{in("a/data/x")}, in("b")},
		"the first itself":             {[]string{in("a")}, in("b")},
		"a link into the first":        {[]string{link}, in("b")},
		"a directory behind that link": {[]string{filepath.Join(link, "x")}, in("b")},
		"a missing path":               {[]string{in("a/not/there")}, in("b")},
		"both":                         {[]string{in("b/x"), in("a/x")}, ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var spec sandbox.Spec
			for _, p := range test.paths {
				spec.Mounts = append(spec.Mounts, sandbox.Mount{Source: p})
			}
			got, err := freeMountPoint(engine.Paths(engine.Box{}, "", spec))
			if got != test.want || (err == nil) != (test.want != "") {
				t.Errorf("freeMountPoint: %q, %v", got, err)
			}
			if err != nil && (dreamcore.CodeOf(err) != dreamcore.CodeSetup || dreamcore.HintOf(err) == "") {
				t.Errorf("the error has no code or hint: %v", err)
			}
		})
	}
}

// namespace returns the mount namespace of a thread.
func namespace(t *testing.T, of string) string {
	t.Helper()
	link, err := os.Readlink("/proc/" + of + "/ns/mnt")
	if err != nil {
		t.Error(err)
	}
	return link
}

// elsewhere returns the threads of this process in another mount namespace.
func elsewhere(t *testing.T, here string) (left []string) {
	t.Helper()
	threads, err := filepath.Glob("/proc/self/task/*/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range threads {
		if link, err := os.Readlink(name); err == nil && link != here {
			left = append(left, name)
		}
	}
	return left
}

func TestMountsAreInvisibleToOthers(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to mount")
	at := t.TempDir()
	before := namespace(t, "self")
	failed := errors.New("failed")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			root := t.TempDir()
			if err := os.WriteFile(filepath.Join(root, "mark"), []byte(root), 0o644); err != nil {
				t.Error(err)
				return
			}
			err := mounts{root: root, at: at}.run(func() error {
				if unix.Gettid() == unix.Getpid() {
					t.Error("f runs on the main thread, which never ends")
				}
				if b, err := os.ReadFile(filepath.Join(at, "mark")); err != nil || string(b) != root {
					t.Errorf("mark: %q, %v", b, err)
				}
				if namespace(t, "thread-self") == before {
					t.Error("f runs in the process's own mount namespace")
				}
				return failed
			})
			if !errors.Is(err, failed) {
				t.Errorf("run: %v", err)
			}
		})
	}
	all.Wait()
	// Their threads end soon after.
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		left := elsewhere(t, before)
		if len(left) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Errorf("still in another mount namespace: %q", left)
			break
		}
	}
	if b, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(b), at) {
		t.Errorf("mounted for other processes: %v", err)
	}
	if _, err := os.Stat(filepath.Join(at, "mark")); err == nil {
		t.Error("the root is visible to other processes")
	}
}

func TestMountsReportMountErrors(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to mount")
	missing := filepath.Join(t.TempDir(), "not-there")
	ran := false
	err := mounts{root: missing, at: t.TempDir()}.run(func() error { ran = true; return nil })
	if !errors.Is(err, os.ErrNotExist) || ran {
		t.Errorf("run: %v, and ran: %t", err, ran)
	}
}

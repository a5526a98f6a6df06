package project

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

const (
	testUser    dreamcore.UserID    = "11111111-1111-4111-8111-111111111111"
	testProject dreamcore.ProjectID = "33333333-3333-4333-8333-333333333333"
)

func TestMain(m *testing.M) {
	applyForParent()
	goleak.VerifyTestMain(m)
}

// newStore opens volumes in a new directory. The sandbox user is another user if
// the test may change owners.
func newStore(t testing.TB, opts volume.Options) *volume.Store {
	t.Helper()
	opts.UID, opts.GID = os.Getuid(), os.Getgid()
	if os.Geteuid() == 0 {
		opts.UID, opts.GID = 12345, 23456
	}
	s, err := volume.Open(filepath.Join(t.TempDir(), "volumes"), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := s.Create(volume.Data); err != nil {
		t.Fatal(err)
	}
	return s
}

func newProject(t testing.TB, opts volume.Options) (*volume.Project, *volume.Store) {
	t.Helper()
	s := newStore(t, opts)
	p, err := s.Project(testUser, testProject)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p, s
}

// newLimited is newProject with a disk of 32 MiB for each user.
func newLimited(t testing.TB, opts volume.Options) (*volume.Project, *volume.Store) {
	t.Helper()
	_, err := os.Stat("/dev/loop-control")
	sandboxtest.Need(t, os.Geteuid() == 0 && err == nil, "root and loop devices")
	_, err = exec.LookPath("mkfs.ext4")
	sandboxtest.Need(t, err == nil, "mkfs.ext4 of e2fsprogs in PATH")
	opts.DiskBytes, opts.DiskIdle = 32<<20, time.Hour
	return newProject(t, opts)
}

// fillUp writes a file until the disk is full and returns its size.
func fillUp(t testing.TB, path string) int {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	chunk := []byte(strings.Repeat("x", 4096))
	for n := 0; ; n++ {
		if _, err := f.Write(chunk); errors.Is(err, syscall.ENOSPC) {
			return n * len(chunk)
		} else if err != nil || n > 1<<16 {
			t.Fatal(n, err)
		}
	}
}

func wantError(t *testing.T, err error, code dreamcore.Code, message string) {
	t.Helper()
	if err == nil || dreamcore.CodeOf(err) != code || !strings.Contains(err.Error(), message) || dreamcore.HintOf(err) == "" {
		t.Fatalf("got %v (%s; hint %q), want %s %q", err, dreamcore.CodeOf(err), dreamcore.HintOf(err), code, message)
	}
}

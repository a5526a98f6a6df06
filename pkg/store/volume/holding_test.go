package volume_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/gvisor"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/rootfs"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/runc"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

// The sandbox of a user copies the mounts of the host when it starts. It must not
// keep the disks of other users mounted.
func TestASandboxKeepsNoDiskOfAnotherUser(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root")
	_, err := os.Stat("/dev/loop-control")
	sandboxtest.Need(t, err == nil, "loop devices")
	exe := sandboxtest.Binary(t)
	const uid, size = 12345, 32 << 20
	engines := map[string]func(ctx context.Context, dir string) (sandbox.Provider, error){
		"gvisor": func(ctx context.Context, dir string) (sandbox.Provider, error) {
			return gvisor.New(ctx, gvisor.Config{Exe: exe, Dir: dir})
		},
		"runc": func(ctx context.Context, dir string) (sandbox.Provider, error) {
			return runc.New(ctx, runc.Config{Exe: exe, Dir: dir, UID: uid, GID: uid})
		},
	}
	for name, open := range engines {
		t.Run(name, func(t *testing.T) {
			state := t.TempDir()
			s, err := volume.Open(filepath.Join(state, "volumes"), volume.Options{UID: uid, GID: uid, DiskBytes: size, DiskIdle: time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if _, err := s.Create(volume.Data); err != nil {
				t.Fatal(err)
			}
			root, err := rootfs.Host(filepath.Join(state, "rootfs"), uid, uid)
			if err != nil {
				t.Fatal(err)
			}
			provider, err := open(t.Context(), filepath.Join(state, "run"))
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := provider.Close(context.WithoutCancel(t.Context())); err != nil {
					t.Error(err)
				}
			}()
			first, second := dreamcore.NewUserID(), dreamcore.NewUserID()
			other, err := s.User(t.Context(), first)
			if err != nil {
				t.Fatal(err)
			}
			own, err := s.User(t.Context(), second)
			if err != nil {
				t.Fatal(err)
			}
			defer own.Close()
			sb, err := provider.Create(t.Context(), sandbox.Spec{Root: root, Mounts: []sandbox.Mount{
				{Source: own.ProjectsPath(), Target: "/data", Writable: true},
			}})
			if err != nil {
				t.Fatal(err)
			}
			defer sb.Close(context.WithoutCancel(t.Context()))
			if !attached(string(first)) || !attached(string(second)) {
				t.Fatal("the disks are not attached")
			}
			if err := other.Close(); err != nil {
				t.Fatal(err)
			}
			for end := time.Now().Add(20 * time.Second); attached(string(first)); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("the disk of a user without a sandbox stays attached while the sandbox of another user runs")
				}
			}
			if got := sandboxtest.Output(t, sb, "echo alive"); got != "alive\n" || !attached(string(second)) {
				t.Errorf("the sandbox's own disk: %q", got)
			}
		})
	}
}

// attached reports whether a loop device has the image of a user.
func attached(user string) bool {
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), user) {
			return true
		}
	}
	return false
}

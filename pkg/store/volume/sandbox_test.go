package volume_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/gvisor"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/rootfs"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

// A real sandbox mounts all projects and homes of a user and writes until its
// kernel returns ENOSPC.
func TestASandboxCannotExceedTheDisk(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root")
	_, err := os.Stat("/dev/loop-control")
	sandboxtest.Need(t, err == nil, "loop devices")
	exe := sandboxtest.Binary(t)
	state := t.TempDir()
	const uid, size = 12345, 32 << 20
	s, err := volume.Open(filepath.Join(state, "volumes"), volume.Options{UID: uid, GID: uid, DiskBytes: size})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	if _, err := s.Create(volume.Data); err != nil {
		t.Fatal(err)
	}
	user, project := dreamcore.NewUserID(), dreamcore.NewProjectID()
	u, err := s.User(t.Context(), user)
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()

	root, err := rootfs.Host(filepath.Join(state, "rootfs"), uid, uid)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	provider, err := gvisor.New(ctx, gvisor.Config{Exe: exe, Dir: filepath.Join(state, "run")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := provider.Close(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	}()
	projects := "/data/users/" + string(user) + "/projects"
	sb, err := provider.Create(ctx, sandbox.Spec{Root: root, Mounts: []sandbox.Mount{
		{Source: u.ProjectsPath(), Target: projects, Writable: true},
		{Source: u.HomesPath(), Target: "/home", Writable: true},
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer sb.Close(context.WithoutCancel(ctx))

	// The sandbox is running already.
	p, err := s.Project(user, project)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	h, err := s.Home(user, project)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()

	const script = `cd "$1/$2" || exit 3
echo '<html>' > index.html
mkdir "$1/another" 2>/dev/null && echo a project was made
mkdir "/home/another" 2>/dev/null && echo a home was made
mv "$1/$2" "$1/moved" 2>/dev/null && echo the project was moved
dd if=/dev/urandom of=big bs=64k count=2000 2>&1 | grep -o 'No space left'
dd if=/dev/urandom of="/home/$2/more" bs=64k count=32 2>/dev/null && echo the home has more space
cat index.html
rm big && echo words > "/home/$2/more" && echo space again`
	var out, errOut bytes.Buffer
	proc, err := sb.Start(ctx, sandbox.Command{
		Args: []string{"/bin/sh", "-c", script, "sh", projects, string(project)}, Env: []string{"PATH=/usr/bin:/bin"},
		UID: uid, GID: uid, Stdout: &out, Stderr: &errOut,
	})
	if err != nil {
		t.Fatal(err)
	}
	exit, err := proc.Wait()
	if err != nil || exit.Code != 0 {
		t.Fatalf("%+v, %v: %s%s", exit, err, &out, &errOut)
	}
	if want := "No space left\n<html>\nspace again\n"; out.String() != want {
		t.Fatalf("it printed %q (%s), want %q", &out, &errOut, want)
	}
	image := filepath.Join(state, "volumes", volume.Data, ".disks", string(user)+".ext4")
	var st unix.Stat_t
	if err := unix.Stat(image, &st); err != nil || st.Size != size || st.Blocks*512 > size {
		t.Fatalf("%+v, %v", st, err)
	}
	if data, err := os.ReadFile(filepath.Join(h.Path(), "more")); err != nil || strings.TrimSpace(string(data)) != "words" {
		t.Fatalf("%q, %v", data, err)
	}
}

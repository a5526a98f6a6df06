package sandboxtest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// testMountsInMounts tests a directory of the host that contains other file
// systems, and a mount over a part of it as systemd makes one for a hardened
// service.
func testMountsInMounts(t *testing.T, r *rig) {
	tree := owned(t)
	over := func(name, source, kind string, flags uintptr, data string) string {
		t.Helper()
		at := filepath.Join(tree, name)
		if kind != "" {
			if err := os.MkdirAll(at, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := unix.Mount(source, at, kind, flags, data); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
		return at
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	disk := over("local disk", "tmpfs", "tmpfs", 0, "mode=777")
	write(filepath.Join(disk, "text"), "on a disk\n")
	write(filepath.Join(over("local disk/in it", "tmpfs", "tmpfs", 0, "mode=777"), "text"), "on a disk in a disk\n")
	over("modules", "tmpfs", "tmpfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0")
	write(filepath.Join(tree, "program"), "below\n")
	file := filepath.Join(owned(t), "file")
	write(file, "a file over a file\n")
	over("program", file, "", unix.MS_BIND, "")

	sb := r.create(t, r.spec(sandbox.Mount{Source: tree, Target: "/global"}))
	got := sh(t, sb, `cd /global && ls && cat "local disk/text" "local disk/in it/text" program`)
	if want := "local disk\nmodules\nprogram\non a disk\non a disk in a disk\na file over a file\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for _, uid := range []uint32{UID, 0} {
		cmd := script(`cd /global && { touch "local disk/new" "local disk/in it/new" modules/new; echo x >>program; echo x >>"local disk/text"; } 2>/dev/null; exit 0`)
		cmd.UID = uid
		run(t, sb, cmd)
	}
	if got := sh(t, sb, `cd /global && cat "local disk/text" program && ls "local disk" "local disk/in it"`); got != "on a disk\na file over a file\nlocal disk:\nin it\ntext\n\nlocal disk/in it:\ntext\n" {
		t.Errorf("after a write it reads %q", got)
	}
	testReadOnlyForTheEngine(t)
}

// testReadOnlyForTheEngine checks, from the host, what the engine's processes could
// write if one of them were compromised.
func testReadOnlyForTheEngine(t *testing.T) {
	refused := 0
	for _, p := range descendants() {
		pid, _, _ := strings.Cut(p, " ")
		for _, in := range []string{"local disk", "local disk/in it"} {
			name := filepath.Join("/proc", pid, "root/global", in, "new")
			f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o644)
			switch {
			case err == nil:
				_ = f.Close()
				t.Errorf("%s: %s can be written", p, in)
			case errors.Is(err, unix.EROFS):
				refused++
			}
		}
	}
	if refused == 0 {
		t.Errorf("no process has the mounts; processes: %q", descendants())
	}
}

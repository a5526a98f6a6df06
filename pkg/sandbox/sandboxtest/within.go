package sandboxtest

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
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
			must(t, os.MkdirAll(at, 0o755))
		}
		must(t, unix.Mount(source, at, kind, flags, data))
		t.Cleanup(func() { noError(t, "unmount", unix.Unmount(at, unix.MNT_DETACH)) })
		return at
	}
	disk := over("local disk", "tmpfs", "tmpfs", 0, "mode=777")
	write(t, filepath.Join(disk, "text"), "on a disk\n")
	write(t, filepath.Join(over("local disk/in it", "tmpfs", "tmpfs", 0, "mode=777"), "text"), "on a disk in a disk\n")
	over("modules", "tmpfs", "tmpfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0")
	write(t, filepath.Join(tree, "program"), "below\n")
	file := filepath.Join(owned(t), "file")
	write(t, file, "a file over a file\n")
	over("program", file, "", unix.MS_BIND, "")

	sb := r.create(t, r.spec(sandbox.Mount{Source: tree, Target: "/global"}))
	prints(t, sb, `cd /global && ls && cat "local disk/text" "local disk/in it/text" program`,
		"local disk\nmodules\nprogram\non a disk\non a disk in a disk\na file over a file\n")
	for _, uid := range []uint32{UID, 0} {
		runAs(t, sb, uid, `cd /global && { touch "local disk/new" "local disk/in it/new" modules/new; echo x >>program; echo x >>"local disk/text"; } 2>/dev/null; exit 0`)
	}
	prints(t, sb, `cd /global && cat "local disk/text" program && ls "local disk" "local disk/in it"`,
		"on a disk\na file over a file\nlocal disk:\nin it\ntext\n\nlocal disk/in it:\ntext\n")
	testReadOnlyForTheEngine(t)
}

// testReadOnlyForTheEngine checks, from the host, what the engine's processes could
// write if one of them were compromised.
func testReadOnlyForTheEngine(t *testing.T) {
	refused := 0
	for pid, p := range descendants() {
		for _, in := range []string{"local disk", "local disk/in it"} {
			name := filepath.Join("/proc", strconv.Itoa(pid), "root/global", in, "new")
			f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o644)
			switch {
			case err == nil:
				_ = f.Close()
				t.Errorf("process %d %s: %s can be written", pid, p, in)
			case errors.Is(err, unix.EROFS):
				refused++
			}
		}
	}
	if refused == 0 {
		t.Errorf("no process has the mounts; processes: %v", descendants())
	}
}

package rootfs_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/oci"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/rootfs"
)

// files returns the contents of the regular files below dir.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		found[name] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func mountOf(root sandbox.Root, target string) (sandbox.Mount, bool) {
	i := slices.IndexFunc(root.Mounts, func(m sandbox.Mount) bool { return m.Target == target })
	if i < 0 {
		return sandbox.Mount{}, false
	}
	return root.Mounts[i], true
}

func TestHostRootExposesNoHostConfiguration(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "root")
	root, err := rootfs.Host(dir, 1234, 5678)
	if err != nil {
		t.Fatal(err)
	}
	known := []string{
		"etc/passwd", "etc/group", "etc/hosts", "etc/hostname", "etc/nsswitch.conf", "etc/resolv.conf", "etc/profile",
		"etc/os-release", "etc/ld.so.cache", ".dreamcore/dreamcore-init", ".dreamcore/bin/claude", ".dreamcore/bin/check",
		"etc/fonts/fonts.conf", // where the host has none
	}
	got := files(t, dir)
	for name := range got {
		if !slices.Contains(known, name) {
			t.Errorf("unexpected file %s", name)
		}
	}
	for _, name := range known[:8] {
		if host, err := os.ReadFile(filepath.Join("/", name)); err == nil && len(host) > 0 && got[name] == string(host) {
			t.Errorf("%s is the host's", name)
		}
	}
	var users []string
	for line := range strings.Lines(got["etc/passwd"]) {
		f := strings.Split(line, ":")
		users = append(users, f[0]+":"+f[2]+":"+f[3])
	}
	if want := []string{"root:0:0", "agent:1234:5678", "browser:61000:61000", "nobody:65534:65534"}; !slices.Equal(users, want) {
		t.Errorf("users %q, want %q", users, want)
	}
	for _, m := range root.Mounts {
		allowed := slices.Contains([]string{"", "/etc/alternatives", "/etc/fonts", "/var/cache/fontconfig"}, m.Source) || slices.Contains([]string{"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"}, strings.TrimPrefix(m.Source, "/"))
		if !allowed || m.Source != "" && m.Writable {
			t.Errorf("mount %+v", m)
		}
	}
}

func TestHostRootHasEveryMountPoint(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "root")
	old := syscall.Umask(0o077) // a strict umask of the operator
	root, err := rootfs.Host(dir, 1234, 5678)
	syscall.Umask(old)
	if err != nil {
		t.Fatal(err)
	}
	if err := (sandbox.Spec{Root: root}).Validate(); err != nil {
		t.Error(err)
	}
	targets := []string{"/proc", "/sys", "/dev", oci.InitPath, rootfs.DataDir, rootfs.GlobalDir, rootfs.HomeDir, rootfs.GatewayDir, rootfs.AgentPath, rootfs.CheckPath, "/tmp"}
	for _, m := range root.Mounts {
		targets = append(targets, m.Target)
	}
	for _, target := range targets {
		fi, err := os.Stat(filepath.Join(dir, target))
		if err != nil || fi.Mode().Perm() != 0o755 {
			t.Errorf("%s: %v, %v", target, fi, err)
		}
	}
	for _, name := range []string{"etc/passwd", "etc/group"} {
		if fi, err := os.Stat(filepath.Join(dir, name)); err != nil || fi.Mode().Perm() != 0o644 {
			t.Errorf("%s: %v, %v", name, fi, err)
		}
	}
	if to, err := os.Readlink(filepath.Join(dir, "var/tmp")); to != "../tmp" {
		t.Errorf("/var/tmp leads to %q, %v", to, err)
	}
	if m, ok := mountOf(root, "/tmp"); !ok || m.Source != "" || m.Mode != 0o1777 {
		t.Errorf("/tmp: %+v", m)
	}
}

func TestHostRootCanBeCreatedAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "root")
	first, err := rootfs.Host(dir, 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	again, err := rootfs.Host(dir, 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(first.Mounts, again.Mounts) || first.Path != again.Path {
		t.Errorf("%+v became %+v", first, again)
	}
	if got := files(t, dir)["etc/passwd"]; !strings.Contains(got, "agent:x:2:2:") {
		t.Errorf("users %q", got)
	}
}

// unpacked creates a tree that looks like a root.
func unpacked(t *testing.T) string {
	t.Helper()
	tree := t.TempDir()
	for _, d := range []string{"usr/bin", "usr/lib", "etc", "opt", "proc", "home/user", "run", "tmp", "data", ".dreamcore"} {
		if err := os.MkdirAll(filepath.Join(tree, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"bin": "usr/bin", "lib": "/usr/lib"} {
		if err := os.Symlink(target, filepath.Join(tree, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(tree, "vmlinuz"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestDirectoryRootShowsTheTree(t *testing.T) {
	tree, dir := unpacked(t), filepath.Join(t.TempDir(), "root")
	root, err := rootfs.Directory(dir, tree)
	if err != nil {
		t.Fatal(err)
	}
	var shown []string
	for _, m := range root.Mounts {
		if m.Source != "" {
			shown = append(shown, m.Source)
			if m.Writable || m.Source != filepath.Join(tree, m.Target) {
				t.Errorf("mount %+v", m)
			}
		}
	}
	slices.Sort(shown)
	if want := []string{filepath.Join(tree, "etc"), filepath.Join(tree, "opt"), filepath.Join(tree, "usr")}; !slices.Equal(shown, want) {
		t.Errorf("shown %q, want %q", shown, want)
	}
	for name, want := range map[string]string{"bin": "usr/bin", "lib": "/usr/lib"} {
		if to, err := os.Readlink(filepath.Join(dir, name)); to != want {
			t.Errorf("%s leads to %q, %v", name, to, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "home/user")); err == nil {
		t.Error("the tree's /home is visible")
	}
	if err := (sandbox.Spec{Root: root}).Validate(); err != nil {
		t.Error(err)
	}
}

func TestDirectoryTakesRelativePaths(t *testing.T) {
	tree := unpacked(t)
	t.Chdir(filepath.Dir(tree))
	root, err := rootfs.Directory("root", filepath.Base(tree))
	if err != nil {
		t.Fatal(err)
	}
	if m, ok := mountOf(root, "/usr"); !ok || m.Source != filepath.Join(tree, "usr") || !filepath.IsAbs(root.Path) {
		t.Errorf("root %s, mount %+v", root.Path, m)
	}
}

func TestDirectoryRefusesTreesThatAreNoRoot(t *testing.T) {
	file := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	binIsFile := t.TempDir()
	if err := os.WriteFile(filepath.Join(binIsFile, "bin"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	toHost := filepath.Join(t.TempDir(), "host")
	if err := os.Symlink("/", toHost); err != nil {
		t.Fatal(err)
	}
	for name, tree := range map[string]string{
		"not there":                filepath.Join(t.TempDir(), "none"),
		"a file":                   file,
		"empty":                    t.TempDir(),
		"without programs":         binIsFile,
		"the host":                 "/",
		"the host by another path": "/usr/../.",
		"a link to the host":       toHost,
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "root")
			_, err := rootfs.Directory(dir, tree)
			var e *dreamcore.Error
			if !errors.As(err, &e) || e.Code != dreamcore.CodeSetup || e.Reason != rootfs.ReasonTree {
				t.Errorf("Directory: %v", err)
			}
			if _, err := os.Stat(dir); err == nil {
				t.Error("Directory created something")
			}
		})
	}
}

func TestNoRootLiesInsideWhatItShows(t *testing.T) {
	tree := t.TempDir()
	if err := os.Mkdir(filepath.Join(tree, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(tree, link); err != nil {
		t.Fatal(err)
	}
	for name, make := range map[string]func() (sandbox.Root, error){
		"the host":               func() (sandbox.Root, error) { return rootfs.Host("/usr/none/state/rootfs", 10000, 10000) },
		"a tree":                 func() (sandbox.Root, error) { return rootfs.Directory(filepath.Join(tree, "state/rootfs"), tree) },
		"a tree, through a link": func() (sandbox.Root, error) { return rootfs.Directory(filepath.Join(link, "state/rootfs"), tree) },
	} {
		root, err := make()
		if err == nil || !strings.Contains(err.Error(), "every sandbox sees") || dreamcore.ReasonOf(err) != rootfs.ReasonState {
			t.Errorf("%s: %+v, %v", name, root, err)
		}
	}
	for _, made := range []string{"/usr/none", filepath.Join(tree, "state")} {
		if _, err := os.Lstat(made); err == nil {
			t.Errorf("%s was created", made)
		}
	}
}

// TestRootsCanAlternateInOneDirectory switches between kinds of root: a link of
// the previous root must never be followed to the host.
func TestRootsCanAlternateInOneDirectory(t *testing.T) {
	trap := t.TempDir() // stands for the host's /etc
	if err := os.Chmod(trap, 0o700); err != nil {
		t.Fatal(err)
	}
	tree, dir := unpacked(t), filepath.Join(t.TempDir(), "root")
	for _, d := range []string{"etc", "opt", "usr/lib", "usr/bin", "usr"} {
		if err := os.Remove(filepath.Join(tree, d)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"etc", "usr", "var"} {
		if err := os.Symlink(trap, filepath.Join(tree, name)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := rootfs.Directory(dir, tree); err != nil {
		t.Fatal(err)
	}
	if _, err := rootfs.Host(dir, 1234, 5678); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(trap); err != nil || len(entries) > 0 {
		t.Errorf("written through a link: %v, %v", entries, err)
	}
	if fi, err := os.Stat(trap); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("changed through a link: %v, %v", fi, err)
	}
	if got := files(t, dir)["etc/passwd"]; !strings.Contains(got, "agent:x:1234:5678:") {
		t.Errorf("users %q", got)
	}
	if _, err := rootfs.Directory(dir, unpacked(t)); err != nil {
		t.Errorf("back again: %v", err)
	}
}

func TestRootThatCannotBeCreated(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := rootfs.Host(filepath.Join(file, "root"), 1, 1); err == nil {
		t.Error("created below a file")
	}
	if _, err := rootfs.Host(file, 1, 1); err == nil {
		t.Error("created in place of a file")
	}
	if _, err := rootfs.Directory(filepath.Join(file, "root"), unpacked(t)); err == nil {
		t.Error("created below a file")
	}
}

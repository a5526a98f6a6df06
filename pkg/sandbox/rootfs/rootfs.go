// Package rootfs creates the read-only root file system of sandboxes, either
// from the programs of the host or from a directory that the operator provides.
//
// In both cases the root is a skeleton of empty mount points that the service
// owns, into which directories are mounted read-only: nothing is ever written to
// the source tree.
package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// Paths inside every sandbox.
const (
	DataDir    = "/data"                  // tmpfs; projects are mounted below it
	GlobalDir  = "/global"                // the global volume
	HomeDir    = "/home/agent"            // HOME of the agent
	GatewayDir = "/run/dreamcore"         // the model gateway's socket
	AgentPath  = "/.dreamcore/bin/claude" // the agent's CLI
	ToolDir    = "/.dreamcore"            // mounts of dreamcore itself
)

// Sizes of in-memory file systems, in bytes. They count towards the memory limit.
const (
	tmpBytes  = 512 << 20
	dataBytes = 1 << 20
)

// hostDirs are mounted from the host. /etc is created anew: the host's holds secrets.
var hostDirs = []string{"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"}

// ownDirs are the mount points in every root. The tree's own directories at
// their first path elements are hidden.
var ownDirs = []string{
	"proc", "sys", "dev", "tmp", "run/dreamcore", "data", "global", "home/agent", ".dreamcore/bin",
}

// Host creates or updates a root in the directory dir from the host's own
// programs: /usr and related directories read-only, and a new /etc without any
// of the host's users, keys or configuration. In it, the agent has the user id
// uid and the group id gid.
func Host(dir string, uid, gid uint32) (sandbox.Root, error) {
	for _, name := range hostDirs {
		if err := outside(dir, filepath.Join("/", name)); err != nil {
			return sandbox.Root{}, err
		}
	}
	root, err := skeleton(dir)
	if err != nil {
		return root, err
	}
	for _, name := range hostDirs {
		if err := show(&root, "/", name); err != nil {
			return root, err
		}
	}
	if err := writeEtc(filepath.Join(dir, "etc"), uid, gid); err != nil {
		return root, err
	}
	if err := mkdir(dir, "var"); err != nil {
		return root, err
	}
	if err := link("../tmp", filepath.Join(dir, "var/tmp")); err != nil {
		return root, err
	}
	// Debian's alternatives are links from /usr/bin into this directory.
	if fi, err := os.Stat("/etc/alternatives"); err == nil && fi.IsDir() {
		if err := mkdir(dir, "etc/alternatives"); err != nil {
			return root, err
		}
		root.Mounts = append(root.Mounts, sandbox.Mount{Source: "/etc/alternatives", Target: "/etc/alternatives"})
	}
	return root, nil
}

// Directory creates a root in dir from the operator's directory tree, such as an
// unpacked image. Top-level names that the sandbox needs itself (/proc, /sys,
// /dev, /tmp, /run, /data, /global, /home) are not taken from it.
func Directory(dir, tree string) (sandbox.Root, error) {
	tree, entries, err := readTree(tree)
	if err != nil {
		return sandbox.Root{}, err
	}
	if err := outside(dir, tree); err != nil {
		return sandbox.Root{}, err
	}
	root, err := skeleton(dir)
	if err != nil {
		return root, err
	}
	own := map[string]bool{}
	for _, d := range ownDirs {
		own[firstElement(d)] = true
	}
	for _, e := range entries {
		if own[e.Name()] || e.Type()&(fs.ModeDir|fs.ModeSymlink) == 0 {
			continue
		}
		if err := show(&root, tree, e.Name()); err != nil {
			return root, err
		}
	}
	return root, nil
}

// readTree lists the operator's tree. It refuses trees that are no root.
func readTree(tree string) (string, []fs.DirEntry, error) {
	refuse := func(message string, err error) (string, []fs.DirEntry, error) {
		return "", nil, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: message, Err: err,
			Hint: "name a directory that holds an unpacked Linux root with --rootfs or --image (to make one: docker export CONTAINER | tar -x -C DIR), or leave both out to use the host's programs",
		}
	}
	tree, err := filepath.Abs(tree)
	if err != nil {
		return refuse("cannot find the root file system", err)
	}
	entries, err := os.ReadDir(tree)
	if err != nil {
		return refuse("cannot read the root file system", err)
	}
	host, err := os.Stat("/")
	if err != nil {
		return refuse("cannot read the root file system", err)
	}
	if fi, err := os.Stat(tree); err != nil || os.SameFile(fi, host) {
		return refuse("the host's own root would expose its secrets to sandboxes", err)
	}
	// A link is not followed, because its target is meant for inside.
	if fi, err := os.Lstat(filepath.Join(tree, "bin")); err != nil || !fi.IsDir() && fi.Mode()&fs.ModeSymlink == 0 {
		return refuse(fmt.Sprintf("%s is no root file system: it has no /bin", tree), err)
	}
	return tree, entries, nil
}

// outside refuses a skeleton inside a directory that sandboxes see, because the
// rest of the service's state, with all users' disks, is alongside it.
func outside(dir, shown string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("create root file system: %w", err)
	}
	inner, err := os.Stat(shown)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("create root file system: %w", err)
	}
	for {
		// Compare files, not names: links may lead there.
		if fi, err := os.Stat(dir); err == nil && os.SameFile(fi, inner) {
			return &dreamcore.Error{
				Code: dreamcore.CodeSetup, Message: fmt.Sprintf("the state directory is in %s, which every sandbox sees", shown),
				Hint: "choose another one with --state DIR, such as /var/lib/" + dreamcore.AppName,
			}
		}
		up := filepath.Dir(dir)
		if up == dir {
			return nil
		}
		dir = up
	}
}

func firstElement(p string) string {
	for i := range len(p) {
		if p[i] == '/' {
			return p[:i]
		}
	}
	return p
}

// skeleton creates the mount points below dir.
func skeleton(dir string) (sandbox.Root, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return sandbox.Root{}, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return sandbox.Root{}, fmt.Errorf("create root file system: %w", err)
	}
	for _, d := range ownDirs {
		if err := mkdir(dir, d); err != nil {
			return sandbox.Root{}, fmt.Errorf("create root file system: %w", err)
		}
	}
	for _, f := range []string{".dreamcore/dreamcore-init", ".dreamcore/bin/claude"} {
		if err := touch(filepath.Join(dir, f)); err != nil {
			return sandbox.Root{}, fmt.Errorf("create root file system: %w", err)
		}
	}
	return sandbox.Root{Path: dir, Mounts: []sandbox.Mount{
		{Target: "/tmp", Writable: true, Size: tmpBytes, Mode: 0o1777},
		{Target: DataDir, Size: dataBytes, Mode: 0o755},
	}}, nil
}

// show makes the entry name of tree visible in root: a link as a link, a
// directory as a read-only mount. A missing entry is skipped.
func show(root *sandbox.Root, tree, name string) error {
	src, dst := filepath.Join(tree, name), filepath.Join(root.Path, name)
	fi, err := os.Lstat(src)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("create root file system: %w", err)
	case fi.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(src)
		if err != nil {
			return fmt.Errorf("create root file system: %w", err)
		}
		return link(target, dst)
	case fi.IsDir():
		if err := mkdir(root.Path, name); err != nil {
			return fmt.Errorf("create root file system: %w", err)
		}
		root.Mounts = append(root.Mounts, sandbox.Mount{Source: src, Target: "/" + name})
	}
	return nil
}

func link(target, name string) error {
	if old, err := os.Readlink(name); err == nil && old == target {
		return nil
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("create root file system: %w", err)
	}
	return os.Symlink(target, name)
}

// mkdir creates the directory name below root with all its parents. Programs of
// other users must be able to traverse them regardless of the umask. A link in
// the way was created for another tree and is replaced: following it could lead
// to directories of the host.
func mkdir(root, name string) error {
	dir := root
	for {
		if fi, err := os.Lstat(dir); err == nil && dir != root && fi.Mode()&fs.ModeSymlink != 0 {
			if err := os.Remove(dir); err != nil {
				return err
			}
		}
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			return err
		}
		if name == "" {
			return nil
		}
		first := firstElement(name)
		dir = filepath.Join(dir, first)
		name = strings.TrimPrefix(name[len(first):], "/")
	}
}

func touch(name string) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o755), f.Close())
}

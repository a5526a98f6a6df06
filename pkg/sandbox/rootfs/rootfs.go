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
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// Paths inside every sandbox.
const (
	DataDir    = "/data"                  // tmpfs; projects are mounted below it
	GlobalDir  = "/global"                // the global volume
	HomeDir    = "/home/agent"            // HOME of the agent
	GatewayDir = "/run/dreamcore"         // the model gateway's socket
	AgentPath  = "/.dreamcore/bin/claude" // the agent's CLI
	CheckPath  = "/.dreamcore/bin/check"  // the program that checks games
)

// browserID is the user and the group of the browser that checks games, unless
// the agent has it. It is in no range that systems assign, and engines map it.
const browserID = 61000

// Browser returns the user and the group of the browser in a sandbox whose agent
// has the user id uid and the group id gid. No program of the agent can become
// that user, so the end of the agent's processes leaves the browser alone.
func Browser(uid, gid uint32) sandbox.Owner {
	o := sandbox.Owner{UID: browserID, GID: browserID}
	if o.UID == uid {
		o.UID++
	}
	if o.GID == gid {
		o.GID++
	}
	return o
}

// Reasons of errors.
const (
	ReasonState dreamcore.Reason = "rootfs.state" // the state directory is in a directory that sandboxes see
	ReasonTree  dreamcore.Reason = "rootfs.tree"  // the operator's tree is no root
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
	if err == nil {
		err = fillHost(&root, uid, gid)
	}
	return root, failed(err)
}

func fillHost(root *sandbox.Root, uid, gid uint32) error {
	for _, name := range hostDirs {
		if err := show(root, "/", name); err != nil {
			return err
		}
	}
	if err := writeEtc(root.Path, uid, gid); err != nil {
		return err
	}
	if err := mkdir(root.Path, "var"); err != nil {
		return err
	}
	if err := link("../tmp", filepath.Join(root.Path, "var/tmp")); err != nil {
		return err
	}
	for _, dir := range readable {
		if _, err := showDir(root, dir); err != nil {
			return err
		}
	}
	return showFonts(root)
}

// readable are directories of the host outside of hostDirs that hold nothing
// secret and that programs need.
var readable = []string{
	"/etc/alternatives",     // Debian's links from /usr/bin lead there
	"/var/cache/fontconfig", // without it, a browser reads every font at its start
}

// showFonts shows the host's configuration of fonts, or else one that finds the
// fonts in the usual directories: without any, a browser draws no text. Each user has
// a cache of its own, because one in a shared directory could be another user's work.
func showFonts(root *sandbox.Root) error {
	const dir = "/etc/fonts"
	shown, err := showDir(root, dir)
	if shown || err != nil {
		return err
	}
	if err := mkdir(root.Path, dir[1:]); err != nil {
		return err
	}
	return statefile.ReplaceCacheFile(filepath.Join(root.Path, dir, "fonts.conf"), 0o644, statefile.Bytes([]byte(usualFonts)))
}

// usualFonts is the configuration for a host without one.
const usualFonts = `<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "urn:fontconfig:fonts.dtd">
<fontconfig><dir>/usr/share/fonts</dir><dir>/usr/local/share/fonts</dir><cachedir prefix="xdg">fontconfig</cachedir></fontconfig>
`

// showDir mounts a directory of the host into a root at the same path. It reports
// whether the host has it.
func showDir(root *sandbox.Root, dir string) (bool, error) {
	if fi, err := os.Stat(dir); err != nil || !fi.IsDir() {
		return false, nil
	}
	root.Mounts = append(root.Mounts, sandbox.Mount{Source: dir, Target: dir})
	return true, mkdir(root.Path, dir[1:])
}

// failed says what failed, unless err is nil.
func failed(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("create root file system: %w", err)
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
		return root, failed(err)
	}
	own := map[string]bool{}
	for _, d := range ownDirs {
		first, _, _ := strings.Cut(d, "/")
		own[first] = true
	}
	for _, e := range entries {
		if own[e.Name()] || e.Type()&(fs.ModeDir|fs.ModeSymlink) == 0 {
			continue
		}
		if err := show(&root, tree, e.Name()); err != nil {
			return root, failed(err)
		}
	}
	return root, nil
}

// readTree lists the operator's tree. It refuses trees that are no root.
func readTree(tree string) (string, []fs.DirEntry, error) {
	refuse := func(message string, err error) (string, []fs.DirEntry, error) {
		return "", nil, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: message, Err: err,
			Reason: ReasonTree, Hint: "use a directory that holds an unpacked Linux root (to make one: docker export CONTAINER | tar -x -C DIR)",
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
		return failed(err)
	}
	inner, err := os.Stat(shown)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return failed(err)
	}
	for {
		// Compare files, not names: links may lead there.
		if fi, err := os.Stat(dir); err == nil && os.SameFile(fi, inner) {
			return &dreamcore.Error{
				Code: dreamcore.CodeSetup, Reason: ReasonState, Message: fmt.Sprintf("the state directory is in %s, which every sandbox sees", shown),
				Hint: "choose another one, such as /var/lib/" + dreamcore.AppName,
			}
		}
		up := filepath.Dir(dir)
		if up == dir {
			return nil
		}
		dir = up
	}
}

// skeleton creates the mount points below dir.
func skeleton(dir string) (sandbox.Root, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return sandbox.Root{}, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return sandbox.Root{}, err
	}
	for _, d := range ownDirs {
		if err := mkdir(dir, d); err != nil {
			return sandbox.Root{}, err
		}
	}
	for _, f := range []string{".dreamcore/dreamcore-init", strings.TrimPrefix(AgentPath, "/"), strings.TrimPrefix(CheckPath, "/")} {
		if err := touch(filepath.Join(dir, f)); err != nil {
			return sandbox.Root{}, err
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
		return err
	case fi.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(src)
		if err != nil {
			return err
		}
		return link(target, dst)
	case fi.IsDir():
		root.Mounts = append(root.Mounts, sandbox.Mount{Source: src, Target: "/" + name})
		return mkdir(root.Path, name)
	}
	return nil
}

func link(target, name string) error {
	if old, err := os.Readlink(name); err == nil && old == target {
		return nil
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(target, name)
}

// mkdir creates the directory name below root with all its parents. Programs of
// other users must be able to traverse them regardless of the umask. A link in
// the way was created for another tree and is replaced: following it could lead
// to directories of the host.
func mkdir(root, name string) error {
	dir := root
	for _, element := range append([]string{""}, strings.Split(name, "/")...) {
		dir = filepath.Join(dir, element)
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
	}
	return nil
}

func touch(name string) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o755), f.Close())
}

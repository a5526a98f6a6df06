package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"
)

// The files of the CLI in HOME. Programs in the sandbox can change all of them.
const (
	homeSettings = ".claude.json"
	homeDir      = ".claude"
	asideSuffix  = ".set-aside" // of files with which the CLI did not start
)

// Bounds of the check of HOME before a run.
const (
	maxHomeSettings = 8 << 20 // bytes; the CLI's own settings take some kilobytes
	homeDepth       = 4       // directories inside each other
	homeNames       = 4096
)

// MendHome sets aside files with which the CLI cannot start or would block
// forever: settings that are not a JSON object in a regular file, and anything
// else than a directory in the place of its directory. It removes FIFOs, sockets
// and devices in that directory. If uid, the CLI's user, does not own the settings
// or the directory, or has no access to them, it gets both. MendHome returns the
// names that it set aside or removed.
func MendHome(home *os.Root, uid uint32) (mended []string, err error) {
	for name, broken := range map[string]func(*os.Root, string, uint32) bool{homeSettings: brokenSettings, homeDir: brokenDir} {
		if !broken(home, name, uid) {
			continue
		}
		if err := setAside(home, name); err != nil {
			return mended, err
		}
		mended = append(mended, name)
	}
	names := homeNames
	special, err := removeSpecial(home, homeDir, homeDepth, &names)
	return append(mended, special...), err
}

// RenewHome sets aside all files of the CLI in HOME. undo restores them.
func RenewHome(home *os.Root) (undo func() error, err error) {
	for _, name := range []string{homeSettings, homeDir} {
		if err := setAside(home, name); err != nil {
			return nil, err
		}
	}
	return func() error {
		var errs []error
		for _, name := range []string{homeSettings, homeDir} {
			if _, err := home.Lstat(name + asideSuffix); err != nil {
				continue
			}
			errs = append(errs, home.RemoveAll(name), home.Rename(name+asideSuffix, name))
		}
		return errors.Join(errs...)
	}, nil
}

// setAside renames an entry. It replaces the one that an earlier run has set aside.
func setAside(home *os.Root, name string) error {
	if err := home.RemoveAll(name + asideSuffix); err != nil {
		return fmt.Errorf("remove an old copy of the agent's home: %w", err)
	}
	if err := home.Rename(name, name+asideSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("set aside a part of the agent's home: %w", err)
	}
	return nil
}

// look returns the information about name; ok is false if it does not exist.
func look(home *os.Root, name string) (info fs.FileInfo, ok bool) {
	info, err := home.Lstat(name)
	return info, err == nil
}

// open gives the user ownership of a file or directory, and its owner these
// rights. It reports whether that succeeded.
func open(home *os.Root, name string, info fs.FileInfo, uid uint32, rights fs.FileMode) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Uid != uid && home.Lchown(name, int(uid), int(st.Gid)) != nil {
		return false
	}
	mode := info.Mode().Perm()
	return mode&rights == rights || home.Chmod(name, mode|rights) == nil
}

func brokenDir(home *os.Root, name string, uid uint32) bool {
	info, ok := look(home, name)
	return ok && !(info.IsDir() && open(home, name, info, uid, 0o700))
}

func brokenSettings(home *os.Root, name string, uid uint32) bool {
	info, ok := look(home, name)
	if !ok {
		return false
	}
	if !info.Mode().IsRegular() || info.Size() > maxHomeSettings || !open(home, name, info, uid, 0o600) {
		return true
	}
	// The entry may have been replaced meanwhile: opening a FIFO must not block.
	f, err := home.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return true
	}
	defer f.Close()
	var object map[string]json.RawMessage
	data, err := io.ReadAll(io.LimitReader(f, maxHomeSettings))
	return err != nil || json.Unmarshal(data, &object) != nil || object == nil
}

// removeSpecial removes FIFOs, sockets and devices, within the bounds of depth and
// names.
func removeSpecial(home *os.Root, dir string, depth int, names *int) (removed []string, err error) {
	info, ok := look(home, dir)
	if !ok || !info.IsDir() || depth == 0 {
		return nil, nil
	}
	d, err := home.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil // it is gone or has no access: the run will show the consequences
	}
	entries, _ := d.ReadDir(max(*names, 1))
	if err := d.Close(); err != nil {
		return nil, err
	}
	*names -= len(entries)
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		switch {
		case e.IsDir():
			var below []string
			below, err = removeSpecial(home, name, depth-1, names)
			removed = append(removed, below...)
		case e.Type()&(fs.ModeNamedPipe|fs.ModeSocket|fs.ModeDevice|fs.ModeCharDevice) != 0:
			if err = home.Remove(name); err == nil {
				removed = append(removed, name)
			}
		}
		if err != nil || *names <= 0 {
			return removed, err
		}
	}
	return removed, nil
}

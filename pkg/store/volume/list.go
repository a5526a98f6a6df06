package volume

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"syscall"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// HomeUsers returns the users that have homes or conversations.
func (s *Store) HomeUsers() (users []dreamcore.UserID, err error) {
	if s.homes == nil {
		return nil, nil
	}
	entries, err := fs.ReadDir(s.homes.FS(), ".")
	if err != nil {
		return nil, tree.DiskError("list the homes", err)
	}
	for _, e := range entries {
		if id, err := dreamcore.ParseUserID(e.Name()); err == nil && string(id) == e.Name() {
			users = append(users, id)
		}
	}
	return users, nil
}

// Peek returns the projects of a user that can be seen without mounting the user's
// disk: all of them if it is mounted or does not exist.
func (s *Store) Peek(user dreamcore.UserID) (projects []dreamcore.ProjectID, err error) {
	entries, err := fs.ReadDir(s.volumes.FS(), path.Join(Data, usersDir, string(user), projectsDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, tree.DiskError("list the projects", err)
	}
	for _, e := range entries {
		if id, err := dreamcore.ParseProjectID(e.Name()); err == nil && string(id) == e.Name() && e.IsDir() {
			projects = append(projects, id)
		}
	}
	return projects, nil
}

// maxMeasured bounds the names that DiskUsage looks at: beyond it the result is too
// low.
const maxMeasured = 200_000

// DiskUsage returns the disk space of the host that the files and homes of a user
// take. It mounts nothing: the user's file system counts as far as it is allocated.
func (s *Store) DiskUsage(ctx context.Context, user dreamcore.UserID) (total int64, err error) {
	info, err := s.volumes.Lstat(path.Join(Data, disksDir, string(user)+".ext4"))
	if err == nil {
		return blocks(info), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return 0, tree.DiskError("measure the disk of the user", err)
	}
	left := maxMeasured
	for _, dir := range []struct {
		root *os.Root
		name string
	}{{s.volumes, path.Join(Data, usersDir, string(user))}, {s.homes, string(user)}} {
		if dir.root == nil {
			continue
		}
		err := fs.WalkDir(dir.root.FS(), dir.name, func(_ string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil // removed meanwhile, or a sandbox has revoked our permission
			}
			if left--; left < 0 {
				return fs.SkipAll
			}
			if info, err := d.Info(); err == nil {
				total += blocks(info)
			}
			return ctx.Err()
		})
		if err != nil {
			return 0, context.Cause(ctx)
		}
	}
	return total, nil
}

func blocks(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return info.Size()
}

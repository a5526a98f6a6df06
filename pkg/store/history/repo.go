package history

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

const (
	branch     = "refs/heads/main"
	repoConfig = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n"
	// maxLockPause bounds the pause between two tries for the lock.
	maxLockPause = 25 * time.Millisecond
	// readCache is how many bytes of objects are remembered while a history is
	// read; the library's default is 96 MiB for each one that is open.
	readCache = 4 * cache.MiByte
)

// repo is the Git directory of one project.
type repo struct {
	dir   string
	store *filesystem.Storage // to read
}

// openRepo opens a repository; fs.ErrNotExist says that there is none.
func openRepo(dir string) (*repo, error) {
	if _, err := os.Stat(filepath.Join(dir, "HEAD")); err != nil {
		return nil, err
	}
	// A file of a project may be larger than what we want to hold in memory.
	opts := filesystem.Options{LargeObjectThreshold: smallBytes}
	return &repo{dir: dir, store: filesystem.NewStorageWithOptions(osfs.New(dir), cache.NewObjectLRU(readCache), opts)}, nil
}

// makeRepo opens a repository and makes it where it is missing, all at once:
// one that was interrupted is never taken for one.
func makeRepo(ctx context.Context, dir string) (*repo, error) {
	r, err := openRepo(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		return r, err
	}
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, dirMode); err != nil {
		return nil, err
	}
	unlock, err := lock(ctx, parent)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if r, err := openRepo(dir); !errors.Is(err, fs.ErrNotExist) {
		return r, err // another was faster
	}
	fresh := dir + ".new"
	if err := os.RemoveAll(fresh); err != nil { // of a crash
		return nil, err
	}
	for _, d := range []string{"objects/info", "objects/pack", "refs/heads", "refs/tags"} {
		if err := os.MkdirAll(filepath.Join(fresh, d), dirMode); err != nil {
			return nil, err
		}
	}
	err = errors.Join(
		os.WriteFile(filepath.Join(fresh, "HEAD"), []byte("ref: "+branch+"\n"), fileMode),
		os.WriteFile(filepath.Join(fresh, "config"), []byte(repoConfig), fileMode),
	)
	if err == nil {
		err = os.Rename(fresh, dir)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(fresh))
	}
	return openRepo(dir)
}

// lock keeps other writers out of a directory, of this process and of others,
// until unlock is called.
func lock(ctx context.Context, dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for pause := time.Millisecond; ; pause = min(2*pause, maxLockPause) {
		err := ctx.Err()
		if err == nil {
			err = unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		}
		if err == nil {
			return func() { d.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(err, d.Close())
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// head returns the newest commit, or the zero hash when there is none.
func (r *repo) head() (plumbing.Hash, error) {
	ref, err := r.store.Reference(branch)
	if errors.Is(err, plumbing.ErrReferenceNotFound) {
		// go-git says the same of an empty file. Beginning anew over that
		// would lose every version.
		if _, err := os.Lstat(filepath.Join(r.dir, branch)); err == nil {
			return plumbing.ZeroHash, fmt.Errorf("%s is empty", branch)
		}
		return plumbing.ZeroHash, nil
	}
	if err != nil {
		return plumbing.ZeroHash, err
	}
	if ref.Type() != plumbing.HashReference || ref.Hash().IsZero() {
		return plumbing.ZeroHash, fmt.Errorf("%s does not hold a hash", branch)
	}
	return ref.Hash(), nil
}

// treeOf returns the tree of a commit.
func (r *repo) treeOf(commit plumbing.Hash) (plumbing.Hash, error) {
	c, err := object.GetCommit(r.store, commit)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	return c.TreeHash, nil
}

// advance makes commit the newest one. All objects are on disk before it is,
// and a crash leaves the old one or the new one.
func (r *repo) advance(commit plumbing.Hash, objects *writer) (err error) {
	// Not below refs, where a leftover would be taken for a branch.
	temp := filepath.Join(r.dir, tempPrefix+uuid.NewString())
	err = os.WriteFile(temp, []byte(commit.String()+"\n"), fileMode)
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreMissing(os.Remove(temp)))
		}
	}()
	if err == nil {
		err = objects.sync()
	}
	if err == nil {
		err = syncPath(temp)
	}
	if err != nil {
		return err
	}
	ref := filepath.Join(r.dir, branch)
	if err := os.Rename(temp, ref); err != nil {
		return err
	}
	d, syncErr := os.Open(filepath.Dir(ref))
	if syncErr != nil {
		return nil // the commit is made, it may only take longer to reach the disk
	}
	_ = d.Sync()
	return d.Close()
}

// sweep removes what a writer left that was killed. The lock is held.
func (r *repo) sweep() error {
	for _, dir := range []string{r.dir, filepath.Join(r.dir, objectsDir)} {
		d, err := os.Open(dir)
		if err != nil {
			return err
		}
		names, err := d.Readdirnames(-1)
		d.Close()
		if err != nil {
			return err
		}
		for _, name := range names {
			if strings.HasPrefix(name, tempPrefix) {
				if err := os.Remove(filepath.Join(dir, name)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (r *repo) damaged(err error) error {
	return &dreamcore.Error{
		Code:    dreamcore.CodeInternal,
		Message: "the history of the project is damaged",
		Hint:    fmt.Sprintf("look at it with: git --git-dir %s fsck; put it back from a backup, or move it away to begin a new one", r.dir),
		Err:     err,
	}
}

// syncFileSystem writes everything of dir's file system to disk.
func syncFileSystem(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return errors.Join(os.NewSyscallError("syncfs", err), d.Close())
	}
	return d.Close()
}

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

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

const (
	branch     = "refs/heads/main"
	repoConfig = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n"
	// maxLockPause is how long pruning waits for a repository that is in use.
	maxLockPause = 25 * time.Millisecond
	// readCache limits the bytes of objects that are cached while a history is
	// read; the library's default is 96 MiB for each open repository.
	readCache = 4 * cache.MiByte
)

// repo is the Git directory of one project.
type repo struct {
	dir   string
	store *filesystem.Storage // for reading
}

// openRepo opens a repository; fs.ErrNotExist if it does not exist.
func openRepo(dir string) (*repo, error) {
	if _, err := os.Stat(filepath.Join(dir, "HEAD")); err != nil {
		return nil, err
	}
	// A file of a project may be too large to be held in memory.
	opts := filesystem.Options{LargeObjectThreshold: smallBytes}
	return &repo{dir: dir, store: filesystem.NewStorageWithOptions(osfs.New(dir), cache.NewObjectLRU(readCache), opts)}, nil
}

// makeRepo opens a repository, and creates it if it is missing. It is created
// under another name and renamed, so an interrupted creation leaves no
// repository.
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
		return r, err // another process was faster
	}
	fresh := dir + ".new"
	if err := os.RemoveAll(fresh); err != nil { // left by a crash
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

// lock excludes other writers of a directory, in this process and in others,
// until unlock is called.
func lock(ctx context.Context, dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := statefile.Lock(ctx, d); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return func() { d.Close() }, nil
}

// head returns the newest commit, or the zero hash if there is no commit.
func (r *repo) head() (plumbing.Hash, error) {
	ref, err := r.store.Reference(branch)
	if errors.Is(err, plumbing.ErrReferenceNotFound) {
		// go-git returns the same error for an empty file. A new history over
		// it would lose every version.
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

// advance makes commit the newest one, after all objects are on the disk. After a
// crash, the old or the new commit is the newest one.
func (r *repo) advance(commit plumbing.Hash, objects *writer) error {
	if err := objects.sync(); err != nil {
		return err
	}
	// Not in refs, where Git would read a residue as a branch.
	temp, name := filepath.Join(r.dir, tempPrefix+uuid.NewString()), filepath.Join(r.dir, branch)
	err := os.WriteFile(temp, []byte(commit.String()+"\n"), fileMode)
	if err == nil {
		err = statefile.Sync(temp)
	}
	if err == nil {
		err = os.Rename(temp, name)
	}
	if err != nil {
		return errors.Join(err, statefile.IgnoreMissing(os.Remove(temp)))
	}
	_ = statefile.Sync(filepath.Dir(name)) // the commit is there: without this it only reaches the disk later
	return nil
}

// sweep removes the temporary files of a writer that was killed. It must be
// called with the lock held.
func (r *repo) sweep() error {
	for _, dir := range []string{r.dir, filepath.Join(r.dir, objectsDir)} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), tempPrefix) || strings.HasPrefix(e.Name(), statefile.TempPrefix) {
				if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
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
		Hint:    fmt.Sprintf("examine it with: git --git-dir %s fsck; restore it from a backup, or move it away to start a new one", r.dir),
		Err:     err,
	}
}

// unreadable returns the error for a history that could not be read.
func (r *repo) unreadable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("read the history: %w", context.Cause(ctx))
	}
	if errors.Is(err, errBeyond) {
		return &dreamcore.Error{Code: dreamcore.CodeTooLarge, Message: "the version is larger than a project may be", Hint: "choose another version", Err: err}
	}
	return r.damaged(err)
}

// missing returns the error for a version that could not be read: CodeNotFound
// if the version was pruned meanwhile.
func (r *repo) missing(ctx context.Context, commit plumbing.Hash, err error) error {
	if errors.Is(err, plumbing.ErrObjectNotFound) {
		if here, walkErr := r.contains(ctx, commit); walkErr == nil && !here {
			return errNoCommit(err)
		}
	}
	return r.unreadable(ctx, err)
}

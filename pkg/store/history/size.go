package history

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// sizeName is the file that caches the size of a repository on disk: the newest
// commit and a number of bytes. It is removed while a version is created, so the
// size is counted again if that process is killed.
const sizeName = "dreamcore-size"

// sizeOf returns the bytes that a repository takes on disk, usually from the
// cache. It is 0 for a damaged repository, which is not pruned.
func sizeOf(ctx context.Context, dir string) (int64, error) {
	if of, size, ok := readSize(dir); ok { // without opening the repository, which costs most
		if head, err := os.ReadFile(filepath.Join(dir, branch)); err == nil && strings.TrimSpace(string(head)) == of {
			return size, nil
		}
	}
	r, err := openRepo(dir)
	if err != nil {
		return 0, statefile.IgnoreMissing(err)
	}
	head, err := r.head()
	if err != nil {
		return 0, nil
	}
	if size, ok := r.knownSize(head); ok {
		return size, nil
	}
	unlock, err := tryLock(ctx, dir)
	if errors.Is(err, errInUse) {
		return r.measure(ctx)
	}
	if err != nil {
		return 0, err
	}
	defer unlock()
	if head, err = r.head(); err != nil {
		return 0, nil
	}
	size, err := r.measure(ctx)
	if err == nil && !head.IsZero() {
		_ = r.noteSize(head, size) // only a cache
	}
	return size, err
}

func (r *repo) knownSize(head plumbing.Hash) (size int64, ok bool) {
	of, size, ok := readSize(r.dir)
	return size, ok && of == head.String()
}

// readSize returns the size in the cache, and the commit that it is of.
func readSize(dir string) (of string, size int64, ok bool) {
	raw, err := os.ReadFile(filepath.Join(dir, sizeName))
	if err != nil {
		return "", 0, false
	}
	n, err := fmt.Sscanf(string(raw), "%40s %d\n", &of, &size)
	return of, size, err == nil && n == 2 && size >= 0
}

// forgetSize must be called with the lock held, before anything is written.
func (r *repo) forgetSize() error {
	return statefile.IgnoreMissing(os.Remove(filepath.Join(r.dir, sizeName)))
}

func (r *repo) noteSize(head plumbing.Hash, size int64) error {
	return statefile.ReplaceCacheFile(filepath.Join(r.dir, sizeName), fileMode, statefile.Bytes(fmt.Appendf(nil, "%s %d\n", head, size)))
}

// measure returns the bytes that the files of the repository take on disk.
func (r *repo) measure(ctx context.Context) (total int64, err error) {
	err = filepath.WalkDir(r.dir, func(_ string, d fs.DirEntry, err error) error {
		var info fs.FileInfo
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			info, err = d.Info()
		}
		if err == nil {
			total += blocks(info)
		}
		return statefile.IgnoreMissing(err)
	})
	return total, err
}

// looseObjects calls visit for each object that has a file of its own.
func (r *repo) looseObjects(ctx context.Context, visit func(path string, hash plumbing.Hash, info fs.FileInfo) error) error {
	return filepath.WalkDir(filepath.Join(r.dir, objectsDir), func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		hex := filepath.Base(filepath.Dir(path)) + filepath.Base(path)
		if err != nil || !isHash(hex) {
			return statefile.IgnoreMissing(err)
		}
		info, err := d.Info()
		if err != nil {
			return statefile.IgnoreMissing(err)
		}
		return visit(path, plumbing.NewHash(hex), info)
	})
}

// blocks returns the bytes that a file takes on disk.
func blocks(info fs.FileInfo) int64 {
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}

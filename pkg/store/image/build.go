package image

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// note is the content of image.json.
type note struct {
	Digest  string    `json:"digest"`
	Size    int64     `json:"size"`
	Entries int       `json:"entries"`
	Skipped int       `json:"skipped"`
	Created time.Time `json:"created"`
}

// build unpacks the image into a temporary directory, which is renamed when it is
// complete and on the disk. It must be called with the lock of pulls held.
func (s *Store) build(ctx context.Context, src source, m manifest, report *reporter) (err error) {
	diffIDs, err := readConfig(ctx, src, m, s.opts.Architecture)
	if err != nil {
		return err
	}
	temp := pullStart + rand.Text()
	defer func() {
		if err == nil {
			return
		}
		if e := s.root.RemoveAll(temp); e != nil {
			s.opts.Logger.Warn("the files of a failed pull stay until the next pull", "directory", temp, "error", e)
		}
	}()
	dir, err := makeDir(s.root, temp)
	if err != nil {
		return err
	}
	defer dir.Close()
	n, err := s.unpackAll(ctx, src, m, diffIDs, dir, report)
	if err != nil {
		return err
	}
	if err := complete(dir, n); err != nil {
		return diskError("finish the image", err)
	}
	// An incomplete image has that name only if its files were changed by hand.
	if err := s.discard(dirName(m.digest)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return diskError("replace the image", err)
	}
	if err = s.root.Rename(temp, dirName(m.digest)); err == nil {
		err = statefile.Sync(s.dir)
	}
	if err != nil {
		return diskError("finish the image", err)
	}
	return nil
}

// makeDir creates and opens a directory.
func makeDir(in *os.Root, name string) (*os.Root, error) {
	if err := in.Mkdir(name, privateMode); err != nil {
		return nil, diskError("create a directory for the image", err)
	}
	dir, err := in.OpenRoot(name)
	if err != nil {
		return nil, diskError("create a directory for the image", err)
	}
	return dir, nil
}

// unpackAll creates rootfs in dir. It removes the downloaded files when it
// returns.
func (s *Store) unpackAll(ctx context.Context, src source, m manifest, diffIDs []v1.Hash, dir *os.Root, report *reporter) (n note, err error) {
	blobs, err := makeDir(dir, blobsDir)
	if err != nil {
		return n, err
	}
	root, err := makeDir(dir, rootDir)
	if err != nil {
		return n, errors.Join(err, blobs.Close())
	}
	u := newUnpacker(root, s.opts.Limits, s.owners)
	stop := src.prefetch(ctx, m, blobs, report)
	defer func() {
		stop() // downloads write into blobs
		err = errors.Join(err, blobs.Close(), root.Close())
		if err == nil {
			err = dir.RemoveAll(blobsDir)
		}
	}()
	defer u.close()
	if err := root.Chmod(".", 0o755); err != nil {
		return n, err
	}
	for i := range m.layers {
		if err := unpackLayer(ctx, src, m, i, diffIDs[i], u, report); err != nil {
			return n, part(m.where(i), err)
		}
	}
	n = note{Digest: m.digest, Entries: u.entries, Skipped: u.skipped, Created: time.Now().UTC()}
	n.Size, err = treeSize(ctx, root, map[uint64]bool{})
	return n, err
}

func unpackLayer(ctx context.Context, src source, m manifest, i int, diffID v1.Hash, u *unpacker, report *reporter) error {
	r, err := src.open(ctx, m, i)
	if err != nil {
		return err
	}
	err = u.unpack(ctx, report.reader(r, Unpacking, i, m.layers[i]), m.layers[i], diffID, i == 0)
	return errors.Join(err, r.Close())
}

// treeSize returns the bytes in the files below dir; a file with several names
// counts once. It opens one name at a time, since names of an image need not be the
// valid UTF-8 that paths of package fs must be.
func treeSize(ctx context.Context, dir *os.Root, seen map[uint64]bool) (total int64, err error) {
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	names, err := namesIn(dir)
	if err != nil {
		return 0, fmt.Errorf("measure the image: %w", err)
	}
	for _, name := range names {
		fi, err := dir.Lstat(name)
		if err != nil {
			return 0, fmt.Errorf("measure the image: %w", err)
		}
		if fi.IsDir() {
			sub, err := dir.OpenRoot(name)
			if err != nil {
				return 0, fmt.Errorf("measure the image: %w", err)
			}
			n, err := treeSize(ctx, sub, seen)
			if err = errors.Join(err, sub.Close()); err != nil {
				return 0, err
			}
			total += n
			continue
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		if !ok || st.Nlink == 1 || !seen[st.Ino] {
			total += fi.Size()
		}
		if ok && st.Nlink > 1 {
			seen[st.Ino] = true
		}
	}
	return total, nil
}

// complete writes the files alongside rootfs, and waits until everything is on the
// disk.
func complete(dir *os.Root, n note) error {
	raw, err := json.Marshal(n)
	if err != nil {
		return err
	}
	if err := dir.WriteFile(noteFile, append(raw, '\n'), fileMode); err != nil {
		return err
	}
	if err := dir.WriteFile(lockFile, nil, fileMode); err != nil {
		return err
	}
	f, err := dir.Open(".")
	if err != nil {
		return err
	}
	// One call for the whole file system: a call for each of a hundred thousand
	// files would take minutes.
	return errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
}

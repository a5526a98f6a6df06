package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// CheckRoom checks that the disk below the images has space for everything that the
// file system of key may still use, and spare bytes more. An image grows as it is
// written to. If it cannot, data that programs were told is written is lost: so
// this is checked before they start. CodeSetup: there is not enough space. Images
// that grow concurrently share the free space.
func (s *Store) CheckRoom(key string, spare int64) error {
	if err := checkKey(key); err != nil {
		return err
	}
	need := s.opts.Bytes
	var st unix.Stat_t
	switch err := unix.Lstat(filepath.Join(s.opts.Images, key+imageExtension), &st); {
	case err == nil:
		need = max(need, st.Size) - st.Blocks*512
	case !errors.Is(err, fs.ErrNotExist):
		return machineError("stat the disk of "+key, err)
	}
	free, err := freeBelow(s.opts.Images)
	if err != nil {
		return machineError("measure the disk", err)
	}
	free += s.opts.Ballast.Bytes()
	if free >= need+spare {
		return nil
	}
	return setupError(fmt.Sprintf("there is no space left for the disk of the user: %d MiB are free, %d MiB are needed", free>>20, (need+spare)>>20),
		"free space on the disk of the state directory, or lower disk_mib, the size of each user's disk", unix.ENOSPC)
}

// Size returns the size in bytes of the file system of a key; 0 if there is none.
func (s *Store) Size(key string) (int64, error) {
	if err := checkKey(key); err != nil {
		return 0, err
	}
	info, err := os.Lstat(filepath.Join(s.opts.Images, key+imageExtension))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, machineError("stat the disk of "+key, err)
	}
	return info.Size(), nil
}

// CheckFree returns CodeSetup if the disk that dir is on, or will be on, has less
// than want bytes free. b, which may be nil, counts as free.
func CheckFree(dir string, want int64, b *Ballast) error {
	free, err := freeBelow(dir)
	if err != nil {
		return machineError("measure the disk", err)
	}
	free += b.Bytes()
	if free >= want {
		return nil
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeSetup, Reason: ReasonNearlyFull,
		Message: fmt.Sprintf("the disk is nearly full: %d MiB are free, %d MiB must stay free", free>>20, want>>20),
		Hint:    "free space on the disk of the state directory, or lower min_free_disk_mib",
		Err:     unix.ENOSPC,
	}
}

// freeBelow returns the free space of the disk that dir is on, or will be on.
func freeBelow(dir string) (int64, error) {
	for {
		var st unix.Statfs_t
		err := unix.Statfs(dir, &st)
		if err == nil {
			return int64(st.Bavail) * st.Bsize, nil
		}
		if !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
		}
		dir = filepath.Dir(dir)
	}
}

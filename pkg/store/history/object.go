package history

import (
	"bytes"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

const (
	objectsDir = "objects"
	// tempPrefix marks temporary files. Git removes such objects too.
	tempPrefix = "tmp_obj_"
	// smallBytes is the size up to which an object is held in memory, so that
	// it is written only if it is new.
	smallBytes = 4 << 20
)

// errShort reports a file with fewer bytes than its size.
var errShort = errors.New("the file became shorter while it was read")

// writer writes loose objects of one repository. It must not be used
// concurrently.
type writer struct {
	dir     string // of objects
	zip     *zlib.Writer
	buf     bytes.Buffer // output, reused
	content []byte       // input, reused; the last small blob
	dirty   []string     // paths of objects that may not be on the disk yet, at most syncEach+1
	added   int64        // bytes on disk of the new objects
}

func newWriter(repo string) *writer {
	// The fastest level: the large files of a game are compressed already.
	zip, err := zlib.NewWriterLevel(nil, zlib.BestSpeed)
	if err != nil {
		panic("history: " + err.Error()) // the level is a constant
	}
	return &writer{dir: filepath.Join(repo, objectsDir), zip: zip}
}

// put stores an object. An object that exists already, or whose hash is known, is
// not written.
func (w *writer) put(t plumbing.ObjectType, content []byte, known plumbing.Hash) (plumbing.Hash, error) {
	hash := plumbing.ComputeHash(t, content)
	if hash == known {
		return hash, nil
	}
	path := w.path(hash)
	w.touch(path) // also if it exists: its writer may have failed before it synced
	if _, err := os.Lstat(path); err == nil {
		return hash, nil
	}
	w.buf.Reset()
	w.zip.Reset(&w.buf)
	// Writes to memory do not fail.
	fmt.Fprintf(w.zip, "%s %d\x00", t, len(content))
	w.zip.Write(content)
	w.zip.Close()
	temp := w.temp()
	err := os.WriteFile(temp, w.buf.Bytes(), fileMode)
	if err == nil {
		err = w.install(temp, path)
	}
	if err != nil {
		return plumbing.ZeroHash, errors.Join(err, statefile.IgnoreMissing(os.Remove(temp)))
	}
	w.added += onDisk(int64(w.buf.Len()))
	return hash, nil
}

// touch notes an object for sync.
func (w *writer) touch(path string) {
	if len(w.dirty) <= syncEach {
		w.dirty = append(w.dirty, path)
	}
}

// onDisk returns the bytes that a file of n bytes takes, in whole blocks.
func onDisk(n int64) int64 { return (n + objectCost - 1) / objectCost * objectCost }

// putBlob stores the next size bytes of src as a blob; errShort if there are
// fewer.
func (w *writer) putBlob(src io.Reader, size int64, known plumbing.Hash) (plumbing.Hash, error) {
	if size > smallBytes {
		return w.stream(src, size)
	}
	if int64(cap(w.content)) < size {
		w.content = make([]byte, size, max(size, 64<<10))
	}
	w.content = w.content[:size]
	if _, err := io.ReadFull(src, w.content); err != nil {
		return plumbing.ZeroHash, short(err)
	}
	return w.put(plumbing.BlobObject, w.content, known)
}

// stream stores a large blob without holding it in memory.
func (w *writer) stream(src io.Reader, size int64) (hash plumbing.Hash, err error) {
	temp := w.temp()
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return hash, err
	}
	hasher := plumbing.NewHasher(plumbing.BlobObject, size)
	w.zip.Reset(f)
	_, err = fmt.Fprintf(w.zip, "%s %d\x00", plumbing.BlobObject, size)
	if err == nil {
		_, err = io.CopyN(io.MultiWriter(w.zip, hasher), src, size)
	}
	if err == nil {
		err = w.zip.Close()
	}
	written, seekErr := f.Seek(0, io.SeekCurrent)
	if err = errors.Join(short(err), seekErr, f.Close()); err == nil {
		hash = hasher.Sum()
		w.touch(w.path(hash))
		w.added += onDisk(written)
		err = w.install(temp, w.path(hash))
	}
	if err != nil {
		return plumbing.ZeroHash, errors.Join(err, statefile.IgnoreMissing(os.Remove(temp)))
	}
	return hash, nil
}

// Up to syncEach objects are synced one by one. For more, syncing the whole file
// system is cheaper, but it also waits for the writes of other processes: on a
// busy disk, half a minute for a commit of one file.
const (
	syncEach   = 64
	syncAtOnce = 8
	parentDirs = 2 // directories above an object that may be new with it
)

// sync returns when all written objects are on the disk.
func (w *writer) sync() error {
	if len(w.dirty) > syncEach {
		d, err := os.Open(w.dir)
		if err != nil {
			return err
		}
		return errors.Join(os.NewSyscallError("syncfs", unix.Syncfs(int(d.Fd()))), d.Close())
	}
	paths := slices.Clone(w.dirty)
	for _, p := range w.dirty {
		for range parentDirs {
			p = filepath.Dir(p)
			paths = append(paths, p)
		}
	}
	slices.Sort(paths)
	paths = slices.Compact(paths)
	var all errgroup.Group
	all.SetLimit(syncAtOnce)
	for _, p := range paths {
		all.Go(func() error { return statefile.Sync(p) })
	}
	return all.Wait()
}

func (w *writer) temp() string { return filepath.Join(w.dir, tempPrefix+uuid.NewString()) }

func (w *writer) path(hash plumbing.Hash) string { return loosePath(w.dir, hash) }

// loosePath returns the path of an object in the directory of objects.
func loosePath(objects string, hash plumbing.Hash) string {
	hex := hash.String()
	return filepath.Join(objects, hex[:2], hex[2:])
}

// install gives a finished object its name.
func (w *writer) install(temp, path string) error {
	err := os.Rename(temp, path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.Mkdir(filepath.Dir(path), dirMode); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		w.added += objectCost // of the directory
		err = os.Rename(temp, path)
	}
	return err
}

func short(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errShort
	}
	return err
}

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
)

const (
	objectsDir = "objects"
	// tempPrefix marks files in the making. Git removes such objects too.
	tempPrefix = "tmp_obj_"
	// smallBytes is up to where an object is kept in memory: then it is known
	// before anything is written whether it is new.
	smallBytes = 4 << 20
)

// errShort says that a file had fewer bytes than it said.
var errShort = errors.New("the file became shorter while it was read")

// writer writes loose objects of one repository. It is for one goroutine.
type writer struct {
	dir     string // of objects
	zip     *zlib.Writer
	buf     bytes.Buffer // of what is written
	content []byte       // of what is read
	dirty   []string     // paths of objects that may not be on the disk yet, as many as are synced one by one
	added   int64        // bytes on disk of what was written
}

func newWriter(repo string) *writer {
	// The fastest level: what is large in a game is compressed already.
	zip, err := zlib.NewWriterLevel(nil, zlib.BestSpeed)
	if err != nil {
		panic("history: " + err.Error()) // the level is a constant
	}
	return &writer{dir: filepath.Join(repo, objectsDir), zip: zip}
}

// put stores an object. One that is there already, or equals known, is not
// written.
func (w *writer) put(t plumbing.ObjectType, content []byte, known plumbing.Hash) (plumbing.Hash, error) {
	hash := plumbing.ComputeHash(t, content)
	if hash == known {
		return hash, nil
	}
	path := w.path(hash)
	w.touch(path) // one that is there, too: its writer may have failed before he could be sure
	if _, err := os.Lstat(path); err == nil {
		return hash, nil
	}
	w.buf.Reset()
	w.zip.Reset(&w.buf)
	// Writes into memory do not fail.
	fmt.Fprintf(w.zip, "%s %d\x00", t, len(content))
	w.zip.Write(content)
	w.zip.Close()
	temp := w.temp()
	err := os.WriteFile(temp, w.buf.Bytes(), fileMode)
	if err == nil {
		err = w.place(temp, path)
	}
	if err != nil {
		return plumbing.ZeroHash, errors.Join(err, ignoreMissing(os.Remove(temp)))
	}
	w.added += onDisk(int64(w.buf.Len()))
	return hash, nil
}

// touch notes an object that sync is to put on the disk.
func (w *writer) touch(path string) {
	if len(w.dirty) <= syncEach {
		w.dirty = append(w.dirty, path)
	}
}

// onDisk is what a file of n bytes takes, in whole blocks.
func onDisk(n int64) int64 { return (n + objectCost - 1) / objectCost * objectCost }

// counting counts what is written.
type counting struct {
	w io.Writer
	n int64
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// putBlob stores the next size bytes of src as a blob; errShort says that
// there are fewer.
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
	zipped := &counting{w: f}
	w.zip.Reset(zipped)
	_, err = fmt.Fprintf(w.zip, "%s %d\x00", plumbing.BlobObject, size)
	if err == nil {
		_, err = io.CopyN(io.MultiWriter(w.zip, hasher), src, size)
	}
	if err == nil {
		err = w.zip.Close()
	}
	if err = errors.Join(short(err), f.Close()); err == nil {
		hash = hasher.Sum()
		w.touch(w.path(hash))
		w.added += onDisk(zipped.n)
		err = w.place(temp, w.path(hash))
	}
	if err != nil {
		return plumbing.ZeroHash, errors.Join(err, ignoreMissing(os.Remove(temp)))
	}
	return hash, nil
}

// Up to syncEach objects are written to the disk one by one. More are cheaper
// with the whole file system, but then whatever others have written to it is
// waited for as well: on a busy disk, half a minute for a commit of one file.
const (
	syncEach    = 64
	syncAtOnce  = 8
	objectsRoom = 2 // directories above an object that may be new with it
)

// sync returns when all objects that were written are on the disk.
func (w *writer) sync() error {
	if len(w.dirty) > syncEach {
		return syncFileSystem(w.dir)
	}
	paths := slices.Clone(w.dirty)
	for _, p := range w.dirty {
		for range objectsRoom {
			p = filepath.Dir(p)
			paths = append(paths, p)
		}
	}
	slices.Sort(paths)
	paths = slices.Compact(paths)
	var all errgroup.Group
	all.SetLimit(syncAtOnce)
	for _, p := range paths {
		all.Go(func() error { return syncPath(p) })
	}
	return all.Wait()
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (w *writer) temp() string { return filepath.Join(w.dir, tempPrefix+uuid.NewString()) }

func (w *writer) path(hash plumbing.Hash) string { return loosePath(w.dir, hash) }

// loosePath returns where an object lies in the directory of objects.
func loosePath(objects string, hash plumbing.Hash) string {
	hex := hash.String()
	return filepath.Join(objects, hex[:2], hex[2:])
}

// place moves a finished object to where it belongs.
func (w *writer) place(temp, path string) error {
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

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

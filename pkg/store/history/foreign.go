package history

import (
	"compress/zlib"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"

	"github.com/go-git/go-git/v5/plumbing"
)

// foreign is a repository that somebody else has made, and may have made to
// harm: it is only read, below an os.Root, one path element at a time.
type foreign struct {
	ctx     context.Context
	root    *os.Root
	objects *os.Root // nil: there are none
	packs   []*pack
	left    int64 // bytes that may still be read or made
	cached  int   // bytes that the packs remember, all together

	shallow map[plumbing.Hash]bool // commits whose parents are not there
}

// openForeign opens a repository. What is not as it should be is found when it
// is read. The caller must close it; git stays open.
func openForeign(ctx context.Context, git *os.Root, left int64) (*foreign, error) {
	f := &foreign{ctx: ctx, root: git, left: left}
	if text, err := f.text(shallowFile, maxShallowBytes); err == nil {
		f.shallow, _ = decodeShallow(text) // one with a fault counts for nothing
	}
	objects, err := openDirs(git, objectsDir)
	if err != nil {
		return f, nil // then no object is found
	}
	f.objects = objects
	dir, err := openDirs(objects, "pack")
	if err != nil {
		return f, nil
	}
	defer dir.Close()
	f.packs = openPacks(dir)
	return f, nil
}

func (f *foreign) close() {
	for _, p := range f.packs {
		p.close()
	}
	if f.objects != nil {
		f.objects.Close()
	}
}

// openDirs opens a directory below root; a link on the way is an error.
func openDirs(root *os.Root, name string) (*os.Root, error) {
	dir, err := root.OpenRoot(".")
	if name == "." {
		return dir, err
	}
	for element := range strings.SplitSeq(name, "/") {
		if err != nil {
			return nil, err
		}
		before, err2 := dir.Lstat(element)
		if err2 == nil && !before.IsDir() {
			err2 = errMoved
		}
		var next *os.Root
		if err = err2; err == nil {
			next, err = openDir(dir, element, before)
		}
		dir.Close()
		dir = next
	}
	return dir, err
}

// openFile opens a regular file below root for reading, without waiting.
func openFile(root *os.Root, name string) (*os.File, int64, error) {
	dir, err := openDirs(root, path.Dir(name))
	if err != nil {
		return nil, 0, err
	}
	defer dir.Close()
	before, err := dir.Lstat(path.Base(name))
	if err != nil {
		return nil, 0, err
	}
	if !before.Mode().IsRegular() {
		return nil, 0, errMoved
	}
	file, err := dir.OpenFile(path.Base(name), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, moved(err)
	}
	after, err := file.Stat()
	if err == nil && !os.SameFile(before, after) {
		err = errMoved
	}
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, after.Size(), nil
}

func (f *foreign) text(name string, limit int64) (string, error) {
	file, size, err := openFile(f.root, name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	if size > limit {
		return "", faultf("%s is too long", name)
	}
	raw, err := io.ReadAll(io.LimitReader(file, limit))
	return string(raw), err
}

// head returns the newest commit of the branch; zero: there is none yet. Every
// error is a fault of the repository.
func (f *foreign) head() (plumbing.Hash, error) {
	name := headFile
	for range maxSymbolicRefs {
		text, err := f.text(name, maxRefBytes)
		if isFault(err) {
			return plumbing.ZeroHash, err
		}
		if err != nil && name == headFile {
			return plumbing.ZeroHash, faultf("it has no HEAD that can be read")
		}
		if err != nil {
			return f.packedRef(name)
		}
		text = strings.TrimSpace(text)
		target, symbolic := strings.CutPrefix(text, "ref:")
		if !symbolic {
			return parseHash(text)
		}
		name = strings.TrimSpace(target)
		if !strings.HasPrefix(name, "refs/") || path.Clean(name) != name || strings.ContainsRune(name, 0) {
			return plumbing.ZeroHash, faultf("HEAD names no branch")
		}
	}
	return plumbing.ZeroHash, faultf("HEAD names a reference that names another, and so on")
}

func parseHash(text string) (plumbing.Hash, error) {
	if !plumbing.IsHash(text) || len(text) != 40 {
		return plumbing.ZeroHash, faultf("its branch does not hold a SHA-1 hash")
	}
	return plumbing.NewHash(text), nil
}

func (f *foreign) packedRef(name string) (plumbing.Hash, error) {
	text, err := f.text("packed-refs", maxPackedRefs)
	if isFault(err) {
		return plumbing.ZeroHash, err
	}
	if err != nil {
		return plumbing.ZeroHash, nil // no commit was made yet
	}
	for line := range strings.Lines(text) {
		hash, ref, _ := strings.Cut(strings.TrimRight(line, "\r\n"), " ")
		if ref == name {
			return parseHash(hash)
		}
	}
	return plumbing.ZeroHash, nil
}

// spend takes bytes from what may still be read.
func (f *foreign) spend(n int64) error {
	if err := f.ctx.Err(); err != nil {
		return err
	}
	if f.left -= n; f.left < 0 {
		return faultf("it is too large to be taken over")
	}
	return nil
}

// read returns an object, verified by its hash. A fault: it is not there, of
// another type, larger than limit, or damaged.
func (f *foreign) read(hash plumbing.Hash, want plumbing.ObjectType, limit int64) ([]byte, error) {
	t, content, err := f.find(hash, limit)
	if err != nil {
		return nil, err
	}
	if t != want || plumbing.ComputeHash(t, content) != hash {
		return nil, faultf("object %s is damaged", Short(hash.String()))
	}
	return content, nil
}

func (f *foreign) find(hash plumbing.Hash, limit int64) (plumbing.ObjectType, []byte, error) {
	o, err := f.loose(hash)
	if err == nil {
		defer o.close()
		content, err := f.all(o, hash, limit)
		return o.kind, content, err
	}
	if !isGone(err) {
		return 0, nil, f.broken(hash, err)
	}
	for _, p := range f.packs {
		if offset, ok := p.find(hash); ok {
			return f.packed(p, offset, hash, limit)
		}
	}
	return 0, nil, faultf("object %s is missing", Short(hash.String()))
}

// broken makes an error that the repository causes a fault.
func (f *foreign) broken(hash plumbing.Hash, err error) error {
	if isFault(err) || f.ctx.Err() != nil {
		return err
	}
	return faultf("object %s cannot be read: %v", Short(hash.String()), err)
}

func (f *foreign) all(o *loose, hash plumbing.Hash, limit int64) ([]byte, error) {
	if o.size > limit {
		return nil, faultf("object %s is larger than %d bytes", Short(hash.String()), limit)
	}
	if err := f.spend(o.size); err != nil {
		return nil, err
	}
	content, err := readExactly(o.r, o.size)
	if err != nil {
		return nil, f.broken(hash, err)
	}
	return content, nil
}

// readExactly allocates as it reads, and never more than size: one that is a lie
// costs nothing.
func readExactly(r io.Reader, size int64) ([]byte, error) {
	const first = 1 << 20 // bytes
	b := make([]byte, 0, min(size, first))
	for int64(len(b)) < size {
		if len(b) == cap(b) {
			larger := make([]byte, len(b), min(size, 2*int64(cap(b))))
			copy(larger, b)
			b = larger
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF && int64(len(b)) < size {
			return nil, fmt.Errorf("%d bytes instead of %d: %w", len(b), size, io.ErrUnexpectedEOF)
		}
		if err != nil && err != io.EOF {
			return nil, err
		}
	}
	if n, err := io.ReadFull(r, make([]byte, 1)); n != 0 || err != io.EOF {
		return nil, fmt.Errorf("more than %d bytes: %w", size, err)
	}
	return b, nil
}

// copyBlob stores a blob; a large one is never in memory as a whole unless it
// is made from a delta.
func (f *foreign) copyBlob(hash plumbing.Hash, w *writer) (size int64, err error) {
	o, err := f.loose(hash)
	if isGone(err) {
		o, err = f.plain(hash)
	}
	if err != nil && !isGone(err) {
		return 0, f.broken(hash, err)
	}
	if err != nil {
		content, err := f.read(hash, plumbing.BlobObject, maxInMemoryBytes)
		if err == nil {
			_, err = w.put(plumbing.BlobObject, content, plumbing.ZeroHash)
		}
		return int64(len(content)), err
	}
	defer o.close()
	return o.size, f.copyPlain(o, hash, w)
}

// copyPlain is copyBlob of an object that is not made from another one.
func (f *foreign) copyPlain(o *loose, hash plumbing.Hash, w *writer) error {
	if o.kind != plumbing.BlobObject || o.size > MaxFileBytes {
		return faultf("object %s is no file, or too large", Short(hash.String()))
	}
	if o.size <= smallBytes {
		content, err := f.all(o, hash, smallBytes)
		if err == nil && plumbing.ComputeHash(plumbing.BlobObject, content) != hash {
			err = faultf("object %s is damaged", Short(hash.String()))
		}
		if err == nil {
			_, err = w.put(plumbing.BlobObject, content, plumbing.ZeroHash)
		}
		return err
	}
	if err := f.spend(o.size); err != nil {
		return err
	}
	src := &source{r: o.r, ctx: f.ctx}
	got, err := w.putBlob(src, o.size, plumbing.ZeroHash)
	if errors.Is(err, errShort) || src.err != nil {
		return f.broken(hash, errors.Join(err, src.err))
	}
	if err == nil && got != hash {
		// It lies under its true hash, where nothing leads to it.
		err = faultf("object %s is damaged", Short(hash.String()))
	}
	return err
}

// loose is an object that is a file of its own.
type loose struct {
	kind plumbing.ObjectType
	size int64
	r    io.Reader
	zip  io.Closer
	file *os.File // nil for one in a pack
}

func (o *loose) close() {
	o.zip.Close()
	if o.file != nil {
		o.file.Close()
	}
}

// plain opens a large object of a pack that is not made from another one;
// fs.ErrNotExist: there is none that can be read like this.
func (f *foreign) plain(hash plumbing.Hash) (*loose, error) {
	for _, p := range f.packs {
		offset, ok := p.find(hash)
		if !ok {
			continue
		}
		h, err := p.scanner.SeekObjectHeader(offset)
		if err != nil {
			return nil, err
		}
		if h.Type != plumbing.BlobObject || h.Length <= smallBytes {
			break
		}
		r, err := p.scanner.ReadObject()
		if err != nil {
			return nil, err
		}
		return &loose{kind: h.Type, size: h.Length, r: r, zip: r}, nil
	}
	return nil, fs.ErrNotExist
}

// loose opens an object that is a file of its own, up to its content.
func (f *foreign) loose(hash plumbing.Hash) (*loose, error) {
	if f.objects == nil {
		return nil, fs.ErrNotExist
	}
	hex := hash.String()
	file, _, err := openFile(f.objects, hex[:2]+"/"+hex[2:])
	if err != nil {
		return nil, err
	}
	zip, err := zlib.NewReader(file)
	if err != nil {
		return nil, errors.Join(faultf("object %s is damaged", Short(hex)), file.Close())
	}
	o := &loose{r: zip, zip: zip, file: file}
	if o.kind, o.size, err = readHeader(zip); err != nil {
		o.close()
		return nil, faultf("object %s is damaged", Short(hex))
	}
	return o, nil
}

// readHeader reads the type and the size of an object that is a file of its own,
// up to its content.
func readHeader(r io.Reader) (t plumbing.ObjectType, size int64, err error) {
	const longest = 32 // bytes: a type and a size
	var header []byte
	for b := make([]byte, 1); ; header = append(header, b[0]) {
		if _, err = io.ReadFull(r, b); err != nil || b[0] == 0 || len(header) > longest {
			break
		}
	}
	kind, number, ok := strings.Cut(string(header), " ")
	if err == nil && ok {
		t, err = plumbing.ParseObjectType(kind)
	}
	if err == nil {
		size, err = strconv.ParseInt(number, 10, 64)
	}
	if err == nil && size < 0 {
		err = errors.New("a negative size")
	}
	return t, size, err
}

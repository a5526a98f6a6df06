package history

import (
	"cmp"
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

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// foreign is a repository from outside, which may be hostile: it is only read, below an os.Root, one path element at a time.
type foreign struct {
	ctx       context.Context
	root      *os.Root
	objects   *os.Root // nil if the repository has no objects
	packs     []*pack
	bytesLeft int64 // that may still be read or result from deltas
	cached    int   // bytes in the caches of all packs

	shallow map[plumbing.Hash]bool // commits without their parents
}

// openForeign opens a repository, of which the given number of bytes may be read. Faults are
// found when it is read. The caller must close it; git stays open.
func openForeign(ctx context.Context, git *os.Root, bytes int64) *foreign {
	f := &foreign{ctx: ctx, root: git, bytesLeft: bytes}
	if text, err := f.text(shallowFile, maxShallowBytes); err == nil {
		f.shallow, _ = decodeShallow(text) // a list with a fault is ignored
	}
	objects, err := tree.OpenDirs(git, objectsDir)
	if err != nil {
		return f // then no object is found
	}
	f.objects = objects
	if dir, err := tree.OpenDirs(objects, "pack"); err == nil {
		f.packs = openPacks(dir, MaxFiles)
		dir.Close()
	}
	return f
}

func (f *foreign) close() {
	for _, p := range f.packs {
		p.close()
	}
	if f.objects != nil {
		f.objects.Close()
	}
}

func (f *foreign) text(name string, limit int64) (string, error) {
	file, info, err := tree.OpenBelow(f.root, name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	if info.Size() > limit {
		return "", faultf("%s is too long", name)
	}
	raw, err := io.ReadAll(io.LimitReader(file, limit))
	return string(raw), err
}

// head returns the newest commit of the branch, or the zero hash if there is
// none yet. Every error is a fault of the repository.
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
		return plumbing.ZeroHash, nil // there is no commit yet
	}
	for line := range strings.Lines(text) {
		hash, ref, _ := strings.Cut(strings.TrimRight(line, "\r\n"), " ")
		if ref == name {
			return parseHash(hash)
		}
	}
	return plumbing.ZeroHash, nil
}

// spend subtracts bytes from the number that may still be read.
func (f *foreign) spend(n int64) error {
	if err := f.ctx.Err(); err != nil {
		return err
	}
	if f.bytesLeft -= n; f.bytesLeft < 0 {
		return faultf("it is too large to be taken over")
	}
	return nil
}

// foreignObject is an object whose hash is not verified yet.
type foreignObject struct {
	kind plumbing.ObjectType
	size int64
	source
	close func()
}

// open opens an object. One that is read from a pack into memory has at most
// limit bytes. A missing or damaged object is a fault.
func (f *foreign) open(hash plumbing.Hash, limit int64) (*foreignObject, error) {
	o, err := f.loose(hash)
	if err == nil {
		return o, nil
	}
	if !isGone(err) {
		return nil, f.broken(hash, err)
	}
	for _, p := range f.packs {
		if offset, ok := p.find(hash); ok {
			return f.packed(p, offset, hash, limit)
		}
	}
	return nil, faultf("object %s is missing", Short(hash.String()))
}

// read returns the content of an object, verified by its hash. It returns a fault
// if the object is missing, of another type, larger than limit, or damaged.
func (f *foreign) read(hash plumbing.Hash, want plumbing.ObjectType, limit int64) ([]byte, error) {
	o, err := f.open(hash, limit)
	if err != nil {
		return nil, err
	}
	defer o.close()
	if o.size > limit {
		return nil, faultf("object %s is larger than %d bytes", Short(hash.String()), limit)
	}
	content, err := readExactly(o, o.size)
	if err != nil {
		return nil, f.broken(hash, err)
	}
	if o.kind != want || plumbing.ComputeHash(o.kind, content) != hash {
		return nil, faultf("object %s is damaged", Short(hash.String()))
	}
	return content, nil
}

// broken turns an error that the repository causes into a fault.
func (f *foreign) broken(hash plumbing.Hash, err error) error {
	if isFault(err) || f.ctx.Err() != nil {
		return err
	}
	return faultf("object %s cannot be read: %v", Short(hash.String()), err)
}

// readExactly allocates while it reads, and never more than size at once: a false
// size costs little.
func readExactly(r io.Reader, size int64) (b []byte, err error) {
	const first = 32 << 10 // bytes
	for done := int64(0); done < size; done = int64(len(b)) {
		larger := make([]byte, min(size, max(first, 2*done)))
		copy(larger, b)
		b = larger
		if _, err := io.ReadFull(r, b[done:]); err != nil {
			return nil, fmt.Errorf("fewer than %d bytes: %w", size, err)
		}
	}
	if n, err := io.ReadFull(r, make([]byte, 1)); n != 0 || err != io.EOF {
		return nil, fmt.Errorf("more than %d bytes: %w", size, err)
	}
	return b, nil
}

// copyBlob stores a blob and returns its size. A large one is held in memory only
// if it is a delta.
func (f *foreign) copyBlob(hash plumbing.Hash, w *writer) (size int64, err error) {
	o, err := f.open(hash, maxInMemoryBytes)
	if err != nil {
		return 0, err
	}
	defer o.close()
	if o.kind != plumbing.BlobObject || o.size > MaxFileBytes {
		return 0, faultf("object %s is not a file, or too large", Short(hash.String()))
	}
	got, err := w.putBlob(o, o.size, plumbing.ZeroHash)
	switch {
	case o.err != nil || errors.Is(err, errShort):
		err = f.broken(hash, cmp.Or(o.err, err))
	case err == nil && got != hash:
		// It is stored under its true hash, and nothing refers to it.
		err = faultf("object %s is damaged", Short(hash.String()))
	}
	return o.size, err
}

// loose opens an object that has a file of its own.
func (f *foreign) loose(hash plumbing.Hash) (*foreignObject, error) {
	if f.objects == nil {
		return nil, fs.ErrNotExist
	}
	hex := hash.String()
	file, _, err := tree.OpenBelow(f.objects, hex[:2]+"/"+hex[2:])
	if err != nil {
		return nil, err
	}
	zip, err := zlib.NewReader(file)
	if err != nil {
		return nil, errors.Join(faultf("object %s is damaged", Short(hex)), file.Close())
	}
	o := &foreignObject{source: source{r: zip, spend: f.spend}, close: func() { zip.Close(); file.Close() }}
	if o.kind, o.size, err = readHeader(zip); err != nil {
		o.close()
		return nil, faultf("object %s is damaged", Short(hex))
	}
	return o, nil
}

// readHeader reads the type and the size at the beginning of a loose object. The
// library's reader looks for the end of them without a limit.
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

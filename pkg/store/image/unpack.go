package image

import (
	"archive/tar"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/maphash"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// unpacker applies the layers of one image, one after another.
type unpacker struct {
	tree    tree
	limits  Limits
	owners  bool  // keep the owners of files
	slack   int64 // of the compression ratio
	buf     []byte
	bytes   int64 // written so far
	entries int   // read and created so far
	skipped int   // device nodes and FIFOs

	// leftOut has the hashes of the paths that were left out, because hard links to
	// them must be left out too.
	leftOut map[uint64]struct{}
	seed    maphash.Seed
}

func newUnpacker(root *os.Root, limits Limits, owners bool) *unpacker {
	return &unpacker{
		tree: tree{root: root, limits: limits}, limits: limits, owners: owners, slack: ratioSlack,
		buf: make([]byte, 256<<10), leftOut: map[uint64]struct{}{}, seed: maphash.MakeSeed(),
	}
}

func (u *unpacker) close() { u.tree.close() }

// layer is a layer that is being unpacked.
type layer struct {
	*unpacker
	gauge *gauge
	base  bool // the lowest layer, in which whiteouts hide nothing

	// created has the hashes of the paths that this layer created: whiteouts hide
	// only files of lower layers. A set of paths could take gigabytes.
	created map[uint64]struct{}
	times   []dirTime
	room    int // bytes of names that times may still take
}

// dirTime is the time of a directory. It is set last, because every new entry
// changes it.
type dirTime struct {
	path string
	time time.Time
}

// maxTimeNames bounds the memory for the times of directories. Directories beyond
// it keep the time of the unpacking.
const maxTimeNames = 64 << 20

// unpack applies a layer to the tree: r returns its compressed bytes, d has their
// size, and diffID is the digest of the tar in them. An error names the entry that
// caused it.
func (u *unpacker) unpack(ctx context.Context, r io.Reader, d v1.Descriptor, diffID v1.Hash, base bool) error {
	packed := verify(r, d)
	stream, stop, err := unpackedStream(packed)
	defer stop()
	if err != nil {
		return err
	}
	sum, err := v1.Hasher(diffID.Algorithm)
	if err != nil {
		return flawf("its digest is of an unknown kind: %v", err)
	}
	g := &gauge{
		ctx: ctx, r: stream, compressed: d.Size, ratio: u.limits.Ratio, slack: u.slack,
		// Every entry has a header, and padding; long names have more.
		most: u.limits.Bytes + 4096*int64(u.limits.Entries),
	}
	l := &layer{unpacker: u, gauge: g, base: base, created: map[uint64]struct{}{}, room: maxTimeNames}
	all := io.TeeReader(g, sum)
	if err := l.read(all); err != nil {
		return err
	}
	return l.finish(all, packed, sum, diffID)
}

func (l *layer) read(r io.Reader) error {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return streamError(err)
		}
		if err := l.count(); err != nil {
			return entryFailed(h.Name, err)
		}
		if err := l.entry(h, tr); err != nil {
			return entryFailed(h.Name, entryError(err))
		}
	}
}

// finish reads the bytes after the last entry, which completes the digests, and
// sets the times of directories.
func (l *layer) finish(all, packed io.Reader, sum hash.Hash, diffID v1.Hash) error {
	for _, r := range []io.Reader{all, packed} {
		if _, err := io.Copy(io.Discard, r); err != nil {
			return streamError(err)
		}
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != diffID.Hex {
		return flawf("it unpacks to %s:%s, its configuration says %s", diffID.Algorithm, got, diffID)
	}
	for _, t := range l.times {
		if fi, err := l.tree.root.Lstat(t.path); err != nil || !fi.IsDir() {
			continue // replaced by a later entry
		}
		if err := l.tree.root.Chtimes(t.path, t.time, t.time); err != nil {
			return fmt.Errorf("set the time of a directory: %w", err)
		}
	}
	return nil
}

// streamError turns errors of the streams below a tar reader into flaws.
func streamError(err error) error {
	if _, ok := errors.AsType[excess](err); ok {
		return err
	}
	return broken(err)
}

// entryError turns errors of the file system that an image can cause into flaws.
func entryError(err error) error {
	if _, ok := errors.AsType[flaw](err); ok {
		return err
	}
	for _, cause := range []error{
		syscall.ENOTDIR, syscall.EISDIR, syscall.ELOOP, syscall.ENAMETOOLONG, syscall.EINVAL, syscall.EEXIST,
		syscall.ENOENT, syscall.EMLINK, syscall.EXDEV, io.ErrUnexpectedEOF, tar.ErrHeader,
	} {
		if errors.Is(err, cause) {
			return flaw(err.Error())
		}
	}
	return err
}

// count counts an entry, or a parent directory without an entry.
func (u *unpacker) count() error {
	if u.entries++; u.entries > u.limits.Entries {
		return excess(fmt.Sprintf("the image has more than %d entries", u.limits.Entries))
	}
	return nil
}

func (u *unpacker) hash(path string) uint64 { return maphash.String(u.seed, path) }

func (l *layer) mark(path string) {
	if !l.base {
		l.created[l.hash(path)] = struct{}{}
	}
}

func (l *layer) isOwn(path string) bool {
	_, ok := l.created[l.hash(path)]
	return ok
}

func (l *layer) entry(h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil // a comment on the whole archive
	}
	name, err := cleanName(h.Name, l.limits)
	if err != nil {
		return err
	}
	dir, base := path.Dir(name), path.Base(name)
	if name == "." && h.Typeflag != tar.TypeDir {
		return flaw("it would replace the root")
	}
	if strings.HasPrefix(name, auxStart) && base != opaqueName {
		return nil
	}
	if hidden, ok := whiteout(base); ok {
		return l.hide(dir, hidden)
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return l.file(dir, base, h, r)
	case tar.TypeDir:
		return l.directory(dir, base, h)
	case tar.TypeSymlink:
		return l.symlink(dir, base, h)
	case tar.TypeLink:
		return l.hardLink(dir, base, h)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return l.leaveOut(dir, base)
	}
	return flawf("its type %q is not known", h.Typeflag)
}

// prepare opens the directory of an entry and removes an existing file of that
// name. there reports whether a directory exists for an entry that is a directory.
func (l *layer) prepare(dir, base string, isDir bool) (d *os.Root, at string, there bool, err error) {
	d, in, err := l.tree.at(dir, l.mkdir)
	if err != nil {
		return nil, "", false, err
	}
	at = join(in, base)
	delete(l.leftOut, l.hash(at))
	fi, err := d.Lstat(base)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return d, at, false, nil
	case err != nil:
		return nil, "", false, err
	case fi.IsDir() && isDir:
		return d, at, true, nil
	case fi.IsDir():
		err = d.RemoveAll(base)
	default:
		err = d.Remove(base)
	}
	if !fi.Mode().IsRegular() {
		l.tree.forget()
	}
	return d, at, false, err
}

// mkdir creates a parent directory without an entry of its own.
func (l *layer) mkdir(at string) error {
	if err := l.count(); err != nil {
		return err
	}
	root := l.tree.root
	if err := root.Mkdir(at, 0o755); err != nil {
		return err
	}
	l.mark(at)
	return root.Chmod(at, 0o755) // independent of the umask
}

func (l *layer) file(dir, base string, h *tar.Header, r io.Reader) error {
	if h.Size > l.limits.FileBytes {
		return excess(fmt.Sprintf("it has %d bytes, a file may have %d", h.Size, l.limits.FileBytes))
	}
	if l.bytes += h.Size; l.bytes > l.limits.Bytes {
		return excess(fmt.Sprintf("the image has more than %d bytes", l.limits.Bytes))
	}
	if err := l.gauge.write(h.Size); err != nil {
		return err
	}
	d, at, _, err := l.prepare(dir, base, false)
	if err != nil {
		return err
	}
	f, err := d.OpenFile(base, os.O_CREATE|os.O_EXCL|os.O_WRONLY, fileMode)
	if err != nil {
		return err
	}
	n, err := io.CopyBuffer(onlyWriter{f}, r, l.buf)
	if err == nil && n != h.Size {
		err = flawf("it has %d of %d bytes", n, h.Size)
	}
	if err == nil && l.owners {
		err = l.chown(h, f.Chown)
	}
	if err == nil {
		err = f.Chmod(l.mode(h, 0o777, 0o400)) // after chown, which may clear bits
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	l.mark(at)
	t := entryTime(h)
	return d.Chtimes(base, t, t)
}

// onlyWriter hides ReadFrom, which would not use the buffer.
type onlyWriter struct{ io.Writer }

func (l *layer) directory(dir, base string, h *tar.Header) error {
	d, at, there, err := l.prepare(dir, base, true)
	if err != nil {
		return err
	}
	if !there {
		if err := d.Mkdir(base, privateMode); err != nil {
			return err
		}
	}
	l.mark(at)
	if l.owners {
		if err := l.chown(h, func(uid, gid int) error { return d.Lchown(base, uid, gid) }); err != nil {
			return err
		}
	}
	if err := d.Chmod(base, l.mode(h, 0o1777, 0o700)); err != nil {
		return err
	}
	if l.room -= len(at); l.room > 0 {
		l.times = append(l.times, dirTime{at, entryTime(h)})
	}
	return nil
}

func (l *layer) symlink(dir, base string, h *tar.Header) error {
	if h.Linkname == "" || len(h.Linkname) > l.limits.PathBytes {
		return flaw("the target of the link is empty or too long")
	}
	d, at, _, err := l.prepare(dir, base, false)
	if err != nil {
		return err
	}
	if err := d.Symlink(h.Linkname, base); err != nil {
		return err
	}
	l.mark(at)
	if !l.owners {
		return nil
	}
	return l.chown(h, func(uid, gid int) error { return d.Lchown(base, uid, gid) })
}

// hardLink adds a name for a file, which must exist. Symbolic links in the path to
// it are resolved inside the tree; a symbolic link as the file itself is not
// followed.
func (l *layer) hardLink(dir, base string, h *tar.Header) error {
	target, err := cleanName(h.Linkname, l.limits)
	if err != nil {
		return fmt.Errorf("the target of the link: %w", err)
	}
	_, in, err := l.tree.at(path.Dir(target), nil)
	if err != nil {
		return fmt.Errorf("the target of the link: %w", err)
	}
	from := join(in, path.Base(target))
	if _, ok := l.leftOut[l.hash(from)]; ok {
		return l.leaveOut(dir, base)
	}
	fi, err := l.tree.root.Lstat(from)
	if err != nil {
		return fmt.Errorf("the target of the link: %w", err)
	}
	if !fi.Mode().IsRegular() && fi.Mode().Type() != fs.ModeSymlink {
		return flaw("the target of the link is not a file")
	}
	if clean, err := l.tree.resolve(dir); err == nil && join(clean, base) == from {
		l.mark(from)
		return nil // a link to itself: replacing it would lose the file
	}
	_, at, _, err := l.prepare(dir, base, false)
	if err != nil {
		return err
	}
	if err := l.tree.root.Link(from, at); err != nil {
		return err
	}
	l.mark(at)
	return nil
}

// leaveOut skips a device node or a FIFO. Sandboxes have their own devices, and
// opening a FIFO could block.
func (l *layer) leaveOut(dir, base string) error {
	_, at, _, err := l.prepare(dir, base, false)
	if err != nil {
		return err
	}
	l.leftOut[l.hash(at)] = struct{}{}
	l.skipped++
	return nil
}

// mode returns the permissions of an entry: without set-user-id and set-group-id,
// because programs in a sandbox must not gain privileges. If the process is not
// root, it keeps the permissions to read and remove the file.
func (l *layer) mode(h *tar.Header, mask, least fs.FileMode) fs.FileMode {
	m := fs.FileMode(h.Mode) & mask & fs.ModePerm
	if h.Mode&0o1000 != 0 && mask&0o1000 != 0 {
		m |= fs.ModeSticky
	}
	if !l.owners {
		m |= least
	}
	return m
}

// maxID is the greatest user and group ID; the next one means "unchanged".
const maxID = 1<<32 - 2

func (l *layer) chown(h *tar.Header, chown func(uid, gid int) error) error {
	if h.Uid < 0 || h.Gid < 0 || h.Uid > maxID || h.Gid > maxID {
		return flawf("its owner %d:%d does not exist", h.Uid, h.Gid)
	}
	if err := chown(h.Uid, h.Gid); err != nil {
		return fmt.Errorf("set the owner %d:%d: %w", h.Uid, h.Gid, err)
	}
	return nil
}

// entryTime returns the time of an entry within the range of every file system.
func entryTime(h *tar.Header) time.Time {
	const last = 1<<32 - 1 // in 2106
	if s := h.ModTime.Unix(); s < 0 || s > last {
		return time.Unix(min(max(s, 0), last), 0)
	}
	return h.ModTime
}

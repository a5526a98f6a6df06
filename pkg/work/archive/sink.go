package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	slashpath "path"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// sink is the destination of an archive. It appears under its name only when it
// is complete.
type sink interface {
	// put writes an entry; src is the content of a file. If the content does not
	// have the size of the entry, put returns errChanged, and the archive stays
	// valid.
	put(ctx context.Context, e tree.Entry, src io.Reader) (size int64, sum []byte, err error)
	// finish writes everything to disk and gives the archive its name.
	finish() error
	// close removes an unfinished archive; after finish it does nothing.
	close() error
}

var errChanged = errors.New("it changed while it was read")

// format is how a tar is compressed.
type format int

const (
	notTar format = iota
	plainTar
	gzipTar
	zstdTar
)

func formatOf(name string) format {
	for suffix, f := range map[string]format{".tar": plainTar, ".tar.gz": gzipTar, ".tgz": gzipTar, ".tar.zst": zstdTar, ".tzst": zstdTar} {
		if strings.HasSuffix(strings.ToLower(name), suffix) {
			return f
		}
	}
	return notTar
}

// openSink opens a sink that becomes dest and belongs to owner: a tar if the name
// is that of one, and a directory otherwise. CodeConflict: dest exists, and it is
// neither an empty directory nor a tar that force replaces.
func openSink(dest string, force bool, owner Owner, m *meter) (sink, error) {
	dest, err := filepath.Abs(dest)
	if err != nil {
		return nil, fileError("write", dest, err)
	}
	info, err := os.Lstat(dest)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fileError("write", dest, err)
	case formatOf(dest) != notTar && info.Mode().IsRegular() && force:
	case formatOf(dest) == notTar && info.IsDir() && isEmpty(dest):
	default:
		e := &dreamcore.Error{Code: dreamcore.CodeConflict, Message: dest + " exists already", Hint: "name another, or remove it first"}
		if formatOf(dest) != notTar {
			e.Reason = ReasonExists
		}
		return nil, e
	}
	u, err := claim(dest, owner)
	if err != nil {
		return nil, fileError("write", dest, err)
	}
	var s sink
	if formatOf(dest) != notTar {
		s, err = newTarSink(u)
	} else {
		s, err = newDirSink(u)
	}
	if err != nil {
		return nil, fileError("write", dest, u.discard(err))
	}
	return metered{s, m}, nil
}

// metered counts the content that is put into a sink.
type metered struct {
	sink
	meter *meter
}

func (s metered) put(ctx context.Context, e tree.Entry, src io.Reader) (size int64, sum []byte, err error) {
	return s.sink.put(ctx, e, s.meter.reader(src))
}

func isEmpty(dir string) bool {
	entries, err := os.ReadDir(dir)
	return err == nil && len(entries) == 0
}

// unfinished is an archive that is being written under another name.
type unfinished struct {
	owner      Owner
	dest, part string // part is "" once it has its name
	lock       *os.File
}

// claim locks dest against other processes that write it, and removes the residue
// of one that was killed.
func claim(dest string, owner Owner) (*unfinished, error) {
	base := filepath.Join(filepath.Dir(dest), "."+filepath.Base(dest))
	lock, err := os.OpenFile(base+".lock", os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, fileMode)
	if err != nil {
		return nil, err
	}
	u := &unfinished{owner: owner, dest: dest, part: base + ".part", lock: lock}
	err = statefile.TryLock(lock)
	if errors.Is(err, statefile.ErrLocked) {
		err = &dreamcore.Error{Code: dreamcore.CodeConflict, Message: dest + " is being written by another process", Hint: "wait until it has ended"}
	}
	if err == nil {
		err = os.RemoveAll(u.part)
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return u, nil
}

// publish gives a complete archive its name; err is the error of completing it.
func (u *unfinished) publish(err error) error {
	if err == nil {
		err = os.Rename(u.part, u.dest)
	}
	if err == nil {
		err = errors.Join(statefile.Sync(filepath.Dir(u.dest)), os.Remove(u.lock.Name()))
	}
	if err != nil {
		return fileError("write", u.dest, err)
	}
	u.part = ""
	return nil
}

// discard removes an archive that was not published, and joins the errors to err.
func (u *unfinished) discard(err error) error {
	if u.part != "" {
		err = errors.Join(err, os.RemoveAll(u.part), os.Remove(u.lock.Name()))
	}
	return errors.Join(err, u.lock.Close())
}

type tarSink struct {
	*unfinished
	tarWriter
	file *os.File
	buf  *bufio.Writer
	zip  io.WriteCloser // nil without compression
}

// tarWriter writes the entries of a tar.
type tarWriter struct {
	as  Owner // of the entries
	tar *tar.Writer
}

func newTarSink(u *unfinished) (*tarSink, error) {
	f, err := os.OpenFile(u.part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return nil, err
	}
	if err := f.Chown(u.owner.UID, u.owner.GID); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	s := &tarSink{unfinished: u, file: f, buf: bufio.NewWriterSize(f, 1<<20)}
	var w io.Writer = s.buf
	switch formatOf(u.dest) {
	case gzipTar:
		s.zip = gzip.NewWriter(w)
	case zstdTar:
		if s.zip, err = zstd.NewWriter(w, zstd.WithEncoderConcurrency(1)); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	if s.zip != nil {
		w = s.zip
	}
	s.tarWriter = tarWriter{u.owner, tar.NewWriter(w)}
	return s, nil
}

// spoolBytes is the size up to which a file is read before its header is written,
// so that a file that became shorter is written with its actual size.
const spoolBytes = 1 << 20

func (s tarWriter) put(ctx context.Context, e tree.Entry, src io.Reader) (size int64, sum []byte, err error) {
	h := &tar.Header{Name: e.Path, Mode: int64(e.Mode.Perm()), Uid: s.as.UID, Gid: s.as.GID, ModTime: e.Modified, Format: tar.FormatPAX}
	switch {
	case e.Mode.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
		return 0, nil, s.tar.WriteHeader(h)
	case e.Mode&fs.ModeSymlink != 0:
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.Link
		return 0, nil, s.tar.WriteHeader(h)
	}
	h.Typeflag, h.Size = tar.TypeReg, e.Size
	changed := false
	if e.Size <= spoolBytes {
		content, err := io.ReadAll(io.LimitReader(src, spoolBytes))
		if err != nil {
			return 0, nil, err
		}
		changed = int64(len(content)) != e.Size
		h.Size, src = int64(len(content)), bytes.NewReader(content)
	}
	if err := s.tar.WriteHeader(h); err != nil {
		return 0, nil, err
	}
	digest := sha256.New()
	w := io.MultiWriter(s.tar, digest)
	total, err := tree.Copy(ctx, w, io.LimitReader(src, h.Size), h.Size)
	if left := h.Size - total; err == nil && left > 0 { // the file became shorter: zeros pad it to the size in its header
		changed = true
		_, err = tree.Copy(ctx, w, io.LimitReader(zeros{}, left), left)
	}
	if err != nil {
		return 0, nil, err
	}
	if changed {
		return h.Size, digest.Sum(nil), errChanged
	}
	return h.Size, digest.Sum(nil), nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func (s *tarSink) finish() error {
	err := s.tar.Close()
	if s.zip != nil {
		err = errors.Join(err, s.zip.Close())
	}
	if err = errors.Join(err, s.buf.Flush()); err == nil {
		err = s.file.Sync()
	}
	return s.publish(err)
}

func (s *tarSink) close() error {
	if z, ok := s.zip.(*zstd.Encoder); ok && s.part != "" {
		z.Reset(nil) // ends its goroutines
	}
	return s.discard(s.file.Close())
}

// dirSink writes a directory.
type dirSink struct {
	*unfinished
	root *os.Root

	// The project that is being written. Its files and its repository have
	// separate limits, in any order of their entries.
	project string
	fillers map[string]*tree.Filler // by their top directory
}

// Limits of a repository, which has many versions and a file for each object.
const (
	maxRepoNames = 1_000_000
	maxRepoBytes = 8 << 30
)

func newDirSink(u *unfinished) (*dirSink, error) {
	if err := os.Mkdir(u.part, dirMode); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(u.part)
	if err != nil {
		return nil, err
	}
	if err := u.owner.chown(root, "."); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return &dirSink{unfinished: u, root: root}, nil
}

func (s *dirSink) put(ctx context.Context, e tree.Entry, src io.Reader) (size int64, sum []byte, err error) {
	top, path := split(e.Path)
	f, err := s.filler(top)
	if err != nil || path == "" {
		return 0, nil, err
	}
	e.Path = path
	size, sum, err = f.Put(ctx, e, src)
	if err == nil && e.Mode.IsRegular() && size != e.Size {
		err = errChanged
	}
	return size, sum, err
}

// filler returns the Filler of the directory top.
func (s *dirSink) filler(top string) (*tree.Filler, error) {
	if project := strings.TrimSuffix(top, "/"+gitDir); project != s.project {
		if err := s.finishProject(); err != nil {
			return nil, err
		}
		s.project, s.fillers = project, map[string]*tree.Filler{}
	}
	if f := s.fillers[top]; f != nil {
		return f, nil
	}
	if err := s.root.MkdirAll(top, dirMode); err != nil {
		return nil, err
	}
	for name := top; name != "."; name = slashpath.Dir(name) {
		if err := s.owner.chown(s.root, name); err != nil {
			return nil, err
		}
	}
	dir, err := tree.OpenDirs(s.root, top)
	if err != nil {
		return nil, err
	}
	f := tree.NewFiller(dir, tree.Owner(s.owner))
	if top != s.project {
		f.SetLimits(maxRepoNames, maxRepoBytes)
	}
	s.fillers[top] = f
	return f, nil
}

// finishProject finishes the project that is being written.
func (s *dirSink) finishProject() (err error) {
	for _, f := range s.fillers {
		err = errors.Join(err, f.Finish())
	}
	s.fillers = nil
	return err
}

// split splits the path of a file of a project into users/U/projects/P and the
// rest. The repository is a tree of its own, with its own limits.
func split(path string) (top, rest string) {
	parts := strings.SplitN(path, "/", 6)
	switch {
	case len(parts) < 5:
		return path, ""
	case len(parts) == 6 && parts[4] == gitDir:
		return strings.Join(parts[:5], "/"), parts[5]
	}
	return strings.Join(parts[:4], "/"), strings.Join(parts[4:], "/")
}

func (s *dirSink) finish() error {
	err := s.finishProject()
	d, openErr := os.Open(s.part)
	if err = errors.Join(err, openErr); err == nil {
		err = errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
	}
	return s.publish(err)
}

func (s *dirSink) close() error { return s.discard(s.root.Close()) }

// manifestLine returns the line of an entry in a manifest.
func manifestLine(e tree.Entry, size int64, sum []byte) string {
	kind := "file"
	switch {
	case e.Mode.IsDir():
		kind, size, sum = "dir", 0, nil
	case e.Mode&fs.ModeSymlink != 0:
		kind, size, sum = "link", 0, nil
		e.Mode &^= fs.ModePerm
	}
	return fmt.Sprintf("%s %o %d %s %q %q\n", kind, e.Mode.Perm(), size, hex.EncodeToString(sum), e.Path, e.Link)
}

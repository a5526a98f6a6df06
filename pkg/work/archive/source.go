package archive

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// readDir imports the projects in a directory: the tree of an old volume, its
// users directory, or a directory that contains one of them.
func readDir(ctx context.Context, dir string, in *importer) error {
	note := in.note
	top, err := os.OpenRoot(dir)
	if err != nil {
		return fileError("read", dir, err)
	}
	defer top.Close()
	users, err := findUsers(top)
	if err != nil {
		return fileError("read", dir, err)
	}
	if users == nil {
		return &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: dir + " contains no projects", Hint: "name the directory that contains users/UUID/projects/UUID, as in the old volume"}
	}
	defer users.Close()
	return eachDir(users, "users/", note, func(name string, user *os.Root) error {
		id, err := dreamcore.ParseUserID(name)
		if err != nil {
			note(fmt.Sprintf("%q is not a user: left out", "users/"+name))
			return nil
		}
		return eachDir(user, "users/"+name+"/", note, func(kind string, projects *os.Root) error {
			if kind != projectsDir {
				note(fmt.Sprintf("%q is not a project: left out", "users/"+name+"/"+kind))
				return nil
			}
			prefix := "users/" + name + "/projects/"
			return eachDir(projects, prefix, note, func(name string, root *os.Root) error {
				project, err := dreamcore.ParseProjectID(name)
				if err != nil {
					note(fmt.Sprintf("%q is not a project: left out", prefix+name))
					return nil
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				return in.visit(ref{id, project}, root)
			})
		})
	})
}

// findUsers opens the directory of users; it returns nil if top contains no users.
func findUsers(top *os.Root) (*os.Root, error) {
	for _, name := range []string{usersDir, "data/" + usersDir, volume.Data + "/" + usersDir} {
		if dir, err := tree.OpenDirs(top, name); err == nil {
			return dir, nil
		}
	}
	entries, err := fs.ReadDir(top.FS(), ".")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if _, err := dreamcore.ParseUserID(e.Name()); err == nil {
			return tree.OpenDirs(top, ".")
		}
	}
	return nil, nil
}

// eachDir opens the directories in dir, in order, and notes everything else.
func eachDir(dir *os.Root, prefix string, note func(string), visit func(name string, sub *os.Root) error) error {
	entries, err := fs.ReadDir(dir.FS(), ".")
	if err != nil {
		note(fmt.Sprintf("%q cannot be read: left out", prefix))
		return nil
	}
	for _, e := range entries {
		sub, err := tree.OpenDirs(dir, e.Name())
		if err != nil {
			note(fmt.Sprintf("%q is not a directory, or cannot be opened: left out", prefix+e.Name()))
			continue
		}
		err = errors.Join(visit(e.Name(), sub), sub.Close())
		if err != nil {
			return err
		}
	}
	return nil
}

// tarFile is an open tar.
type tarFile struct {
	file *os.File
	zip  io.Closer
	read *counter // counts the bytes that the tar.Reader has read
	*tar.Reader
}

// maxWindow limits the memory of decompression.
const maxWindow = 128 << 20

func openTar(name string, m *meter, checking bool) (*tarFile, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fileError("read", name, err)
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: name + " is not a regular file", Hint: "name a directory, or a .tar, .tar.gz or .tar.zst", Err: err}
	}
	t := &tarFile{file: f}
	m.begin(info.Size(), checking)
	r := io.Reader(bufio.NewReaderSize(m.reader(f), 1<<20))
	switch formatOf(name) {
	case gzipTar:
		z, e := gzip.NewReader(r)
		if err = e; err == nil {
			r, t.zip = z, z
		}
	case zstdTar:
		z, e := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err = e; err == nil {
			r, t.zip = z, z.IOReadCloser()
		}
	case notTar:
		err = errors.New("its name does not end in .tar, .tar.gz or .tar.zst")
	}
	if err != nil {
		f.Close()
		return nil, fileError("read", name, err)
	}
	t.read = &counter{r: r}
	t.Reader = tar.NewReader(t.read)
	return t, nil
}

func (t *tarFile) close() {
	if t.zip != nil {
		t.zip.Close()
	}
	t.file.Close()
}

// next returns the next entry. An entry whose path leaves the archive, or of an
// unsupported type, has no Path and a note in Link.
func (t *tarFile) next() (e tree.Entry, err error) {
	if _, err := io.Copy(io.Discard, t); err != nil {
		return e, damaged(t.file.Name(), err)
	}
	before := t.read.n
	h, err := t.Next()
	// A tar ends with two empty blocks. The library also reports EOF for one that
	// is truncated between two entries.
	const end = 2 * 512
	if err == io.EOF && t.read.n-before < end {
		err = io.ErrUnexpectedEOF
	}
	if err == io.EOF {
		return e, err
	}
	if err != nil {
		return e, damaged(t.file.Name(), err)
	}
	name := strings.TrimSuffix(path.Clean(h.Name), "/")
	if name == "." {
		return e, nil
	}
	if !filepath.IsLocal(name) || strings.ContainsRune(name, 0) {
		return tree.Entry{Link: fmt.Sprintf("%q left out: it leaves the archive", h.Name)}, nil
	}
	e = tree.Entry{Path: name, Mode: fs.FileMode(h.Mode) & fs.ModePerm, Size: h.Size, Modified: h.ModTime}
	switch h.Typeflag {
	case tar.TypeReg:
	case tar.TypeDir:
		e.Mode |= fs.ModeDir
	case tar.TypeSymlink:
		e.Mode, e.Link, e.Size = e.Mode|fs.ModeSymlink, h.Linkname, 0
	default:
		return tree.Entry{Link: fmt.Sprintf("%q left out: it is neither a file, a link nor a directory", h.Name)}, nil
	}
	return e, nil
}

func damaged(name string, err error) error {
	return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: name + " is damaged or incomplete", Hint: "use another copy of it", Err: err}
}

// readTar imports the projects in a tar. It unpacks each below spool first,
// because a repository cannot be read sequentially. It calls other for all
// entries outside of projects.
func readTar(ctx context.Context, name, spool string, in *importer, other func(tree.Entry, io.Reader) error) error {
	t, err := openTar(name, in.depot.meter, false)
	if err != nil {
		return err
	}
	defer t.close()
	u := &unpacker{in: in, ctx: ctx, spool: spool, seen: map[ref]bool{}}
	defer u.drop()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		e, err := t.next()
		if err == io.EOF {
			return u.flush()
		}
		if err != nil {
			return err
		}
		if e.Path == "" {
			if e.Link != "" {
				in.note(e.Link)
			}
			continue
		}
		r, rest, ok := parseProject(e.Path)
		if !ok {
			if err := errors.Join(u.flush(), other(e, t)); err != nil {
				return err
			}
			continue
		}
		if err := u.put(r, rest, e, t); err != nil {
			return err
		}
	}
}

// parseProject splits the path of an entry of a project.
func parseProject(name string) (r ref, rest string, ok bool) {
	name = strings.TrimPrefix(name, "data/")
	parts := strings.SplitN(name, "/", 5)
	if len(parts) < 4 || parts[0] != usersDir || parts[2] != projectsDir {
		return r, "", false
	}
	user, err := dreamcore.ParseUserID(parts[1])
	project, err2 := dreamcore.ParseProjectID(parts[3])
	if len(parts) == 5 {
		rest = parts[4]
	}
	return ref{user, project}, rest, err == nil && err2 == nil
}

// unpacker unpacks one project after the other.
type unpacker struct {
	in    *importer
	ctx   context.Context
	spool string
	seen  map[ref]bool

	at    ref // the project that is being unpacked
	dir   string
	out   *dirSink
	fault error // why it cannot be unpacked
}

func (u *unpacker) put(r ref, rest string, e tree.Entry, src io.Reader) error {
	if u.out == nil || r != u.at {
		if err := u.flush(); err != nil {
			return err
		}
		if u.seen[r] {
			return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "the files of project " + string(r.project) + " are not contiguous in the archive", Hint: "unpack it and import the directory"}
		}
		u.seen[r] = true
		dir, err := os.MkdirTemp(u.spool, spoolPrefix)
		if err != nil {
			return fileError("unpack into", u.spool, err)
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			return errors.Join(err, os.RemoveAll(dir))
		}
		u.at, u.dir, u.fault, u.out = r, dir, nil, &dirSink{unfinished: &unfinished{owner: Owner{UID: os.Geteuid(), GID: os.Getegid()}}, root: root}
	}
	if rest == "" || u.fault != nil {
		return nil
	}
	e.Path = r.path() + "/" + rest
	switch {
	case e.Mode.IsDir():
		e.Mode |= dirMode // so that it can be entered and removed again
	case e.Mode.IsRegular() && os.Geteuid() != 0:
		e.Mode |= 0o400 // so that it can be read again
	}
	_, _, err := u.out.put(u.ctx, e, src)
	switch code := dreamcore.CodeOf(err); {
	case err == nil:
	case errors.Is(err, unix.ENOSPC):
		return fileError("unpack into", u.spool, err)
	case code == dreamcore.CodeInvalid:
		u.in.note(fmt.Sprintf("%q left out: %v", e.Path, err))
	case code == dreamcore.CodeTooLarge:
		u.fault = err
	default:
		return damaged("the archive", err)
	}
	return nil
}

// flush visits the unpacked project.
func (u *unpacker) flush() error {
	if u.out == nil {
		return nil
	}
	defer u.drop()
	if u.fault != nil {
		u.in.failed(u.at, u.fault)
		return nil
	}
	if err := u.out.finishProject(); err != nil {
		return err
	}
	if err := u.out.root.MkdirAll(u.at.path(), dirMode); err != nil {
		return err
	}
	root, err := tree.OpenDirs(u.out.root, u.at.path())
	if err != nil {
		return err
	}
	return errors.Join(u.in.visit(u.at, root), root.Close())
}

func (u *unpacker) drop() {
	if u.out != nil {
		_ = u.out.root.Close()
		_ = os.RemoveAll(u.dir) // the next import removes the rest
		u.out = nil
	}
}

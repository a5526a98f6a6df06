package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
	"github.com/notef-neighbor/dreamcore/pkg/work/project"
)

// Reasons of errors of a Transfer.
const (
	ReasonAboveProjects dreamcore.Reason = "transfer.above_projects" // the path of the volume is in no project
	ReasonDirectory     dreamcore.Reason = "transfer.directory"      // a directory instead of a file
	ReasonExists        dreamcore.Reason = "transfer.exists"         // a file exists, and Force is not set
	ReasonLocal         dreamcore.Reason = "transfer.local"          // a file of the operator cannot be used
	ReasonTooLarge      dreamcore.Reason = "transfer.too_large"      // the stream has too many bytes
)

// Transferred counts the files that were copied.
type Transferred struct {
	Files   int      `json:"files"`
	Bytes   int64    `json:"bytes"`
	LeftOut []string `json:"left_out"` // a sentence for each file that was not copied, up to a limit

	more int // files that were not copied and are not in LeftOut
}

// Transfer copies files between a volume and the operator's disk. It is not safe
// for concurrent use.
type Transfer struct {
	Owner Owner // of the files that are copied out of a volume
	Force bool  // replace existing files
	// Apply changes files of a project, all or none, and records a version.
	Apply    func(ctx context.Context, user dreamcore.UserID, id dreamcore.ProjectID, changes []project.Change, message string) error
	Progress func(Progress) // may be nil

	meter *meter // nil until used
	done  Transferred
}

// Get copies a file or a directory of a volume to local. If local is an existing
// directory, it is copied into it under name, as cp -r does it; "/" for a whole
// volume. Links and special files are left out.
func (t *Transfer) Get(ctx context.Context, from *volume.Location, name, local string) (Transferred, error) {
	if from.Root == nil {
		return t.end(aboveProjects())
	}
	if info, err := os.Stat(local); err == nil && info.IsDir() && name != "/" {
		local = filepath.Join(local, name)
	}
	if from.IsDir() {
		return t.end(t.getDir(ctx, from, local))
	}
	return t.end(t.getFile(ctx, from, local))
}

// GetStream copies a file of a volume to w.
func (t *Transfer) GetStream(ctx context.Context, from *volume.Location, w io.Writer) error {
	switch {
	case from.Root == nil:
		return aboveProjects()
	case from.IsDir():
		return &dreamcore.Error{Code: dreamcore.CodeInvalid, Reason: ReasonDirectory, Message: "a directory cannot be copied to a stream"}
	}
	f, info, err := tree.OpenFile(from.Root, from.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	t.begin(info.Size())
	_, err = tree.Copy(ctx, w, t.meter.reader(f), math.MaxInt64)
	return err
}

// begin begins to count bytes; size is 0 if it is not known how many there are.
func (t *Transfer) begin(size int64) {
	t.meter = &meter{report: t.Progress}
	t.meter.begin(size, false)
}

func aboveProjects() error {
	return &dreamcore.Error{Code: dreamcore.CodeInvalid, Reason: ReasonAboveProjects, Message: "the path is in no project", Hint: "name users/UUID/projects/UUID, or a path below it"}
}

func (t *Transfer) getDir(ctx context.Context, from *volume.Location, local string) error {
	src, err := tree.OpenDirs(from.Root, from.Path)
	if err != nil {
		return err
	}
	defer src.Close()
	t.begin(0)
	if err := t.makeDir(local); err != nil {
		return localError(local, err)
	}
	dest, err := os.OpenRoot(local)
	if err != nil {
		return localError(local, err)
	}
	defer dest.Close()
	for e, err := range tree.Walk(ctx, src, t.skip) {
		if err != nil {
			return err
		}
		if err := t.getEntry(ctx, dest, e); err != nil {
			return err
		}
	}
	return nil
}

func (t *Transfer) getEntry(ctx context.Context, dest *os.Root, e tree.Entry) error {
	if reason, out := project.LeftOut(e.Path); out {
		if reason != "" {
			t.skip(e.Path, reason)
		}
		return nil
	}
	if e.Mode&fs.ModeSymlink != 0 {
		t.skip(e.Path, linkReason)
		return nil
	}
	content, err := e.Open()
	if err != nil {
		t.skip(e.Path, tree.UnreadableReason)
		return nil
	}
	err = t.write(ctx, dest, e, content)
	return errors.Join(err, content.Close())
}

func (t *Transfer) getFile(ctx context.Context, from *volume.Location, local string) error {
	f, info, err := tree.OpenFile(from.Root, from.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	dir, err := os.OpenRoot(filepath.Dir(local))
	if err != nil {
		return localError(local, err)
	}
	defer dir.Close()
	t.begin(info.Size())
	return t.write(ctx, dir, tree.Entry{Path: filepath.Base(local), Mode: info.Mode().Perm(), Size: info.Size()}, f)
}

// write writes an entry below dest and gives it to the owner. An existing
// directory keeps its owner.
func (t *Transfer) write(ctx context.Context, dest *os.Root, e tree.Entry, content io.Reader) error {
	_, before := dest.Lstat(e.Path)
	if err := tree.PutFile(ctx, dest, e, t.meter.reader(content), t.Force); err != nil {
		return err
	}
	if !e.Mode.IsDir() || before != nil {
		if err := dest.Lchown(e.Path, t.Owner.UID, t.Owner.GID); err != nil {
			return localError(e.Path, err)
		}
	}
	t.add(e)
	return nil
}

// makeDir creates a directory of the operator if it is missing.
func (t *Transfer) makeDir(local string) error {
	_, before := os.Stat(local)
	if err := os.MkdirAll(local, 0o755); err != nil || !errors.Is(before, fs.ErrNotExist) {
		return err
	}
	return os.Chown(local, t.Owner.UID, t.Owner.GID)
}

// GiveAll makes a directory, with everything in it, belong to the owner.
func (o Owner) GiveAll(dir string) error {
	if o.UID == os.Geteuid() {
		return nil
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return localError(dir, err)
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = root.Lchown(path, o.UID, o.GID)
		}
		return err
	})
}

func localError(name string, err error) error {
	return &dreamcore.Error{Code: dreamcore.CodeInvalid, Reason: ReasonLocal, Message: fmt.Sprintf("cannot use %q", name), Hint: "check it with ls -ld, or name another one", Err: err}
}

const linkReason = "links are not followed"

// source is a file to be copied into a volume.
type source struct {
	entry tree.Entry // Path is the destination
	open  func() (io.ReadCloser, error)
}

// Put copies a file or a directory of the operator to a path of a volume. In a
// project, either all files are copied or none, and a version is recorded.
// Links are left out.
func (t *Transfer) Put(ctx context.Context, to *volume.Location, local string) (Transferred, error) {
	info, err := os.Stat(local)
	switch {
	case to.Root == nil:
		return t.end(aboveProjects())
	case err != nil:
		return t.end(localError(local, err))
	case info.Mode().IsRegular():
		e := tree.Entry{Path: to.Path, Mode: info.Mode().Perm(), Size: info.Size()}
		return t.end(t.put(ctx, to, []source{{e, func() (io.ReadCloser, error) { return os.Open(local) }}}))
	case !info.IsDir():
		return t.end(localError(local, errors.New("it is neither a file nor a directory")))
	}
	root, err := os.OpenRoot(local)
	if err != nil {
		return t.end(localError(local, err))
	}
	defer root.Close()
	var files []source
	for e, err := range tree.Walk(ctx, root, t.skip) {
		if err != nil {
			return t.end(err)
		}
		if !e.Mode.IsRegular() {
			if !e.Mode.IsDir() {
				t.skip(e.Path, linkReason)
			}
			continue
		}
		name := e.Path
		e.Path = path.Join(to.Path, name)
		files = append(files, source{e, func() (io.ReadCloser, error) {
			f, _, err := tree.OpenFile(root, name)
			return f, err
		}})
	}
	return t.end(t.put(ctx, to, files))
}

// maxStream limits the bytes of a stream, which are held in memory.
const maxStream = 256 << 20

// PutStream copies a stream to a file of a volume.
func (t *Transfer) PutStream(ctx context.Context, to *volume.Location, r io.Reader) (Transferred, error) {
	if to.Root == nil {
		return t.end(aboveProjects())
	}
	t.begin(0)
	raw, err := io.ReadAll(io.LimitReader(t.meter.reader(r), maxStream+1))
	if err == nil && len(raw) > maxStream {
		err = &dreamcore.Error{Code: dreamcore.CodeTooLarge, Reason: ReasonTooLarge, Message: "the input is larger than 256 MiB", Hint: "copy it from a file"}
	}
	if err != nil {
		return t.end(err)
	}
	e := tree.Entry{Path: to.Path, Mode: 0o644, Size: int64(len(raw))}
	return t.end(t.put(ctx, to, []source{{e, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil }}}))
}

func (t *Transfer) put(ctx context.Context, to *volume.Location, files []source) error {
	if !t.Force {
		for _, f := range files {
			if _, err := to.Root.Lstat(f.entry.Path); err == nil {
				return &dreamcore.Error{Code: dreamcore.CodeConflict, Reason: ReasonExists, Message: f.entry.Path + " exists already"}
			}
		}
	}
	var size int64
	for _, f := range files {
		size += f.entry.Size
	}
	t.begin(size)
	if to.Project != "" {
		return t.putProject(ctx, to, files)
	}
	for _, f := range files {
		src, err := f.open()
		if err != nil {
			return localError(f.entry.Path, err)
		}
		err = tree.PutFile(ctx, to.Root, f.entry, t.meter.reader(src), t.Force)
		if err = errors.Join(err, src.Close()); err != nil {
			return err
		}
		t.add(f.entry)
	}
	return nil
}

func (t *Transfer) putProject(ctx context.Context, to *volume.Location, files []source) error {
	var changes []project.Change
	for _, f := range files {
		changes = append(changes, project.Change{Path: f.entry.Path, Write: func(w io.Writer) error {
			src, err := f.open()
			if err != nil {
				return localError(f.entry.Path, err)
			}
			_, err = io.Copy(w, t.meter.reader(src))
			t.add(f.entry)
			return errors.Join(err, src.Close())
		}})
	}
	return t.Apply(ctx, to.User, to.Project, changes, "Files put by the operator")
}

func (t *Transfer) add(e tree.Entry) {
	if !e.Mode.IsRegular() {
		return
	}
	t.done.Files++
	t.done.Bytes += e.Size
	t.meter.now.Done = t.done.Files
	t.meter.show()
}

// maxLeftOut limits the names in LeftOut: a sandbox has chosen them.
const maxLeftOut = 1000

func (t *Transfer) skip(name, reason string) {
	if len(t.done.LeftOut) == maxLeftOut {
		t.done.more++
		return
	}
	t.done.LeftOut = append(t.done.LeftOut, fmt.Sprintf("%q left out: %s", name, reason))
}

// end returns the result of a copy.
func (t *Transfer) end(err error) (Transferred, error) {
	if t.done.more > 0 {
		t.done.LeftOut = append(t.done.LeftOut, fmt.Sprintf("%d more left out", t.done.more))
	}
	if t.done.LeftOut == nil {
		t.done.LeftOut = []string{}
	}
	return t.done, err
}

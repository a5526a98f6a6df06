package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

const (
	// importsDir is in the state directory:
	//
	//	imports/U/P.json   how far the import of a project is
	//	imports/.spool-…   a project that is being unpacked
	importsDir  = "imports"
	spoolPrefix = ".spool-"

	importMessage  = "Imported"
	restoreMessage = "Restored from a backup"
)

// ImportOptions say how projects are taken in.
type ImportOptions struct {
	Users map[dreamcore.UserID]dreamcore.UserID // whose projects become whose
	Force bool                                  // replace the files of projects that are here
}

// Import takes in the projects of a directory or a tar: an old backend's
// volume, or an Export. Each becomes a project with its versions, verified by
// hash, or stays away. Run again, it goes on where it was ended, and leaves
// alone what it has taken in before. CodeConflict: another import runs.
func (d *Depot) Import(ctx context.Context, src string, opts ImportOptions) (report Report, err error) {
	spool, unlock, err := d.openImports()
	if err != nil {
		return report, err
	}
	defer unlock()
	in := &importer{depot: d, ctx: ctx, opts: opts, message: importMessage, report: &report}
	if info, err := os.Stat(src); err == nil && info.IsDir() {
		return report, readDir(ctx, src, in.note, in.visit)
	}
	return report, readTar(ctx, src, spool, in, in.other)
}

// openImports makes the directory of imports this process's own, and the volume
// of projects where it is missing.
func (d *Depot) openImports() (dir string, unlock func(), err error) {
	if _, err := d.volumes.Create(volume.Data); err != nil {
		return "", nil, err
	}
	dir = filepath.Join(d.opts.StateDir, importsDir)
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return "", nil, fileError("write", dir, err)
	}
	f, err := os.Open(dir)
	if err != nil {
		return "", nil, fileError("open", dir, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return "", nil, &dreamcore.Error{Code: dreamcore.CodeConflict, Message: "another import or restore is running", Hint: "wait until it has ended", Err: err}
	}
	left, _ := filepath.Glob(filepath.Join(dir, spoolPrefix+"*"))
	for _, l := range left {
		err = errors.Join(err, os.RemoveAll(l))
	}
	if err != nil {
		f.Close()
		return "", nil, fileError("remove what an import left in", dir, err)
	}
	return dir, func() { f.Close() }, nil
}

type importer struct {
	depot   *Depot
	ctx     context.Context
	opts    ImportOptions
	message string // of the version that is made
	report  *Report
}

func (in *importer) note(text string) {
	const enough = 200
	if len(in.report.Notes) < enough {
		in.report.Notes = append(in.report.Notes, text)
	}
}

func (in *importer) other(e volume.Entry, _ io.Reader) error {
	if !e.Mode.IsDir() {
		in.note(fmt.Sprintf("%q is no project: left out", e.Path))
	}
	return nil
}

// owned is the project with the user who gets it.
func (in *importer) owned(r ref) ref {
	if to, ok := in.opts.Users[r.user]; ok {
		r.user = to
	}
	return r
}

// failed reports a project that cannot even be read.
func (in *importer) failed(r ref, err error) {
	r = in.owned(r)
	in.report.Projects = append(in.report.Projects, Result{User: r.user, Project: r.project, State: Failed, Reason: err.Error()})
}

func (in *importer) visit(r ref, root *os.Root) error {
	r = in.owned(r)
	in.depot.opts.Progress(Progress{Done: len(in.report.Projects), Project: r.project})
	result := Result{User: r.user, Project: r.project}
	err := in.take(r, root, &result)
	if err != nil {
		if err = result.fail(in.ctx, err); err != nil {
			return err
		}
	}
	in.report.Projects = append(in.report.Projects, result)
	return nil
}

// status is how far the import of a project is.
type status struct {
	Done   bool      `json:"done"`
	By     string    `json:"by"`               // the message of its version
	Digest string    `json:"digest,omitempty"` // of the files
	Head   string    `json:"head,omitempty"`   // newest version
	When   time.Time `json:"when"`
}

// take makes one project.
func (in *importer) take(r ref, root *os.Root, result *Result) error {
	d := in.depot
	unlock, err := d.lock(in.ctx, r)
	if err != nil {
		return err
	}
	defer unlock()
	known := d.status(r)
	used, err := in.used(r)
	if err != nil {
		return err
	}
	if used && !in.opts.Force {
		if !known.Done {
			return in.compare(r, root, result)
		}
		result.State = Present
		return nil
	}
	room, err := d.volumes.Reserve(in.ctx, r.user)
	if err != nil {
		return err
	}
	defer room.Close()
	if used {
		if err := d.keep(in.ctx, r); err != nil {
			return err
		}
	}
	if err := d.setStatus(r, status{By: in.message, When: time.Now()}); err != nil {
		return err
	}
	var digest *volume.Digest
	var head string
	err = d.volumes.Replace(in.ctx, r.user, r.project, func(f *volume.Filler) error {
		digest, err = fill(in.ctx, root, f, result)
		return err
	}, func(fresh *os.Root) error {
		copied, err := volume.DigestOf(in.ctx, fresh, func(string, string) {})
		if err != nil {
			return err
		}
		if copied.String() != digest.String() {
			return &dreamcore.Error{Code: dreamcore.CodeInternal, Message: "the copy is not what was read", Hint: "import it again: something writes to the source, or the disk is faulty"}
		}
		head, err = in.versions(r, root, fresh, result)
		return err
	})
	if err != nil {
		if used && head != "" { // there is a version that did not take its place
			err = errors.Join(err, d.keep(context.WithoutCancel(in.ctx), r))
		}
		return err
	}
	result.State = Copied
	result.Files, result.Bytes = digest.Files, digest.Bytes
	return d.setStatus(r, status{Done: true, By: in.message, Digest: digest.String(), Head: head, When: time.Now()})
}

// used tells whether there is a project with files of others. What an import
// that was ended has left is not.
func (in *importer) used(r ref) (bool, error) {
	p, err := in.depot.volumes.Find(r.user, r.project)
	if dreamcore.CodeOf(err) == dreamcore.CodeNotFound {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer p.Close()
	for _, err := range volume.Walk(in.ctx, p.Root(), func(string, string) {}) {
		return true, err
	}
	if in.depot.status(r).When.IsZero() { // not begun by us: it may have been emptied by its user
		head, err := in.depot.versions.Newest(r.user, r.project)
		return head != "", err
	}
	return false, nil
}

// compare finds out whether a project that is here is what would be imported:
// then an import was ended before it could write that down.
func (in *importer) compare(r ref, root *os.Root, result *Result) error {
	p, err := in.depot.volumes.Find(r.user, r.project)
	if err != nil {
		return err
	}
	defer p.Close()
	ignore := func(string, string) {}
	here, err := volume.DigestOf(in.ctx, p.Root(), ignore)
	if err != nil {
		return err
	}
	there, err := volume.DigestOf(in.ctx, root, ignore)
	if err != nil {
		return err
	}
	if here.String() != there.String() {
		result.State, result.Reason = Skipped, "a project of this id is here, with other files; --force replaces them"
		return nil
	}
	head, err := in.depot.versions.Newest(r.user, r.project)
	if err != nil {
		return err
	}
	result.State, result.Files, result.Bytes = Present, here.Files, here.Bytes
	return in.depot.setStatus(r, status{Done: true, By: in.message, Digest: here.String(), Head: head, When: time.Now()})
}

// fill copies a tree, and returns what was read.
func fill(ctx context.Context, root *os.Root, f *volume.Filler, result *Result) (*volume.Digest, error) {
	digest := volume.NewDigest()
	for e, err := range volume.Walk(ctx, root, result.skip) {
		if err != nil {
			return nil, err
		}
		var src io.ReadCloser = io.NopCloser(strings.NewReader(""))
		if e.Mode.IsRegular() {
			if src, err = e.Open(); err != nil {
				result.skip(e.Path, "it cannot be read")
				continue
			}
		}
		size, sum, err := f.Put(ctx, e, src)
		src.Close()
		if dreamcore.CodeOf(err) == dreamcore.CodeInvalid {
			result.skip(e.Path, "its path is not one of a project, or too long")
			continue
		}
		if err != nil {
			return nil, err
		}
		digest.Add(e, size, sum)
	}
	return digest, nil
}

// versions takes over the versions that root brings, and makes one of fresh.
func (in *importer) versions(r ref, root, fresh *os.Root, result *Result) (head string, err error) {
	d := in.depot
	info, err := root.Lstat(gitDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil || !info.IsDir():
		result.note("its versions were left out: .git is not a directory")
	default:
		git, err := volume.OpenDir(root, gitDir)
		if err != nil {
			result.note("its versions were left out: .git cannot be opened")
			break
		}
		a, err := d.versions.Adopt(in.ctx, r.user, r.project, git)
		git.Close()
		if err != nil {
			return "", err
		}
		result.Versions = a.Versions
		if a.Reason != "" {
			result.note(fmt.Sprintf("versions that were left out: %d: %s", a.LeftOut, a.Reason))
		}
	}
	head, _, err = d.versions.Commit(in.ctx, r.user, r.project, fresh, in.message, time.Now())
	return head, err
}

// keep makes a version of what is about to be replaced.
func (d *Depot) keep(ctx context.Context, r ref) error {
	p, err := d.volumes.Find(r.user, r.project)
	if dreamcore.CodeOf(err) == dreamcore.CodeNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.Close()
	_, _, err = d.versions.Commit(ctx, r.user, r.project, p.Root(), "Before an import", time.Now())
	return err
}

func (d *Depot) statusFile(r ref) string {
	return filepath.Join(d.opts.StateDir, importsDir, string(r.user), string(r.project)+".json")
}

// status returns the zero status when there is none that can be read.
func (d *Depot) status(r ref) (s status) {
	raw, err := os.ReadFile(d.statusFile(r))
	if err != nil || json.Unmarshal(raw, &s) != nil {
		return status{}
	}
	return s
}

func (d *Depot) setStatus(r ref, s status) error {
	name := d.statusFile(r)
	raw, err := json.Marshal(s)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(name), dirMode)
	}
	if err == nil {
		err = os.WriteFile(name+".new", raw, fileMode)
	}
	if err == nil {
		err = os.Rename(name+".new", name)
	}
	if err != nil {
		return fileError("write", name, err)
	}
	return nil
}

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
	"syscall"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
	"github.com/notef-neighbor/dreamcore/pkg/work/project"
)

const (
	// importsDir is in the state directory:
	//
	//	imports/U/P.json   the status of the import of a project
	//	imports/.spool-…   a project that is being unpacked
	importsDir  = "imports"
	spoolPrefix = ".spool-"

	importMessage  = "Imported"
	restoreMessage = "Restored from a backup"
)

// ImportOptions configures an import.
type ImportOptions struct {
	Users map[dreamcore.UserID]dreamcore.UserID // old owner → new owner
	Force bool                                  // replace the files of existing projects
}

// Import imports the projects of a directory or a tar: the volume of an old
// backend, or an Export. Each project is imported completely, with its versions
// and verified by hash, or not at all. A second run continues after an
// interrupted one and leaves the projects alone that were imported before.
// CodeConflict: another import is running.
func (d *Depot) Import(ctx context.Context, src string, opts ImportOptions) (report Report, err error) {
	spool, unlock, err := d.openImports()
	if err != nil {
		return report, err
	}
	defer unlock()
	in := &importer{depot: d, ctx: ctx, opts: opts, message: importMessage, report: &report}
	if info, err := os.Stat(src); err == nil && info.IsDir() {
		in.copied = d.meter
		return report, readDir(ctx, src, in)
	}
	return report, readTar(ctx, src, spool, in, in.other)
}

// openImports locks the directory of imports for this process, and makes the
// volume of projects if it is missing.
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
	if err := statefile.TryLock(f); err != nil {
		f.Close()
		return "", nil, &dreamcore.Error{Code: dreamcore.CodeConflict, Message: "another import or restore is running", Hint: "wait until it has ended", Err: err}
	}
	left, err := namesIn(dir, func(name string) bool { return strings.HasPrefix(name, spoolPrefix) })
	for _, l := range left {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, l)))
	}
	if err != nil {
		f.Close()
		return "", nil, fileError("remove the residue of an import in", dir, err)
	}
	return dir, func() { f.Close() }, nil
}

// namesIn returns the wanted names in a directory, which may be missing.
func namesIn(dir string, wanted func(string) bool) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if wanted(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, statefile.IgnoreMissing(err)
}

type importer struct {
	depot   *Depot
	ctx     context.Context
	opts    ImportOptions
	message string // of the version that is made
	move    bool   // what does not fit on the disk of the user is left out
	disk    int64  // in a move: the size of the disk that the user comes from; 0 without one
	copied  *meter // counts the files that are copied; nil if those of a tar are
	report  *Report
}

func (in *importer) note(text string) {
	const enough = 200
	in.report.Notes = addNote(in.report.Notes, enough, text)
}

func (in *importer) other(e tree.Entry, _ io.Reader) error {
	if !e.Mode.IsDir() {
		in.note(fmt.Sprintf("%q is not a project: left out", e.Path))
	}
	return nil
}

// owned returns the project with its new owner.
func (in *importer) owned(r ref) ref {
	if to, ok := in.opts.Users[r.user]; ok {
		r.user = to
	}
	return r
}

// failed reports a project that cannot be read.
func (in *importer) failed(r ref, err error) {
	r = in.owned(r)
	in.report.Projects = append(in.report.Projects, Result{User: r.user, Project: r.project, State: Failed, Reason: err.Error()})
}

// visit imports one project and reports it. root is the project's directory,
// which is hostile and open during the call only. An error ends the import.
func (in *importer) visit(r ref, root *os.Root) error {
	r = in.owned(r)
	in.depot.meter.projects(len(in.report.Projects), 0, r.project)
	result := Result{User: r.user, Project: r.project}
	err := in.importProject(r, root, &result)
	if err != nil {
		if err = result.fail(in.ctx, err); err != nil {
			return err
		}
	}
	in.report.Projects = append(in.report.Projects, result)
	return nil
}

// status is the status of the import of a project.
type status struct {
	Done   bool      `json:"done"`
	By     string    `json:"by"`               // message of the version
	Digest string    `json:"digest,omitempty"` // of the files
	Head   string    `json:"head,omitempty"`   // newest version
	When   time.Time `json:"when"`
}

// importProject imports one project.
func (in *importer) importProject(r ref, root *os.Root, result *Result) error {
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
		if err := d.save(in.ctx, r); err != nil {
			return err
		}
	}
	if err := d.setStatus(r, status{By: in.message, When: time.Now()}); err != nil {
		return err
	}
	var digest *tree.Digest
	var head string
	replacing := true // on the disk of the user
	err = project.Replace(in.ctx, d.volumes, r.user, r.project, func(f *tree.Filler) error {
		digest, err = in.fill(root, f, result)
		replacing = err == nil
		return err
	}, func(fresh *os.Root) error {
		replacing = false
		copied, err := tree.DigestOf(in.ctx, fresh, tree.NoSkip)
		if err != nil {
			return err
		}
		if copied.String() != digest.String() {
			return &dreamcore.Error{Code: dreamcore.CodeInternal, Message: "the copy differs from the source", Hint: "import it again: another program writes to the source, or the disk is faulty"}
		}
		head, err = in.versions(r, root, fresh, result)
		return err
	})
	if replacing && in.unfit(r.user, err) {
		result.State, result.Reason, result.unfit = Skipped, unfitReason, true
		return nil
	}
	if err != nil {
		if used && head != "" { // a version exists of files that did not replace the project's
			err = errors.Join(err, d.save(context.WithoutCancel(in.ctx), r))
		}
		return err
	}
	result.State = Copied
	result.Files, result.Bytes = digest.Files, digest.Bytes
	return d.setStatus(r, status{Done: true, By: in.message, Digest: digest.String(), Head: head, When: time.Now()})
}

// used reports whether the project exists and has content that does not come from
// an interrupted import.
func (in *importer) used(r ref) (bool, error) {
	p, err := in.depot.volumes.Find(r.user, r.project)
	if dreamcore.CodeOf(err) == dreamcore.CodeNotFound {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer p.Close()
	for _, err := range tree.Walk(in.ctx, p.Root(), tree.NoSkip) {
		return true, err
	}
	if in.depot.status(r).When.IsZero() { // no import began it: its user may have emptied it
		head, err := in.depot.versions.Newest(r.user, r.project)
		return head != "", err
	}
	return false, nil
}

// compare reports an existing project as present if its files are those that
// would be imported: then an import was interrupted before it recorded the
// project as done.
func (in *importer) compare(r ref, root *os.Root, result *Result) error {
	p, err := in.depot.volumes.Find(r.user, r.project)
	if err != nil {
		return err
	}
	defer p.Close()
	here, err := tree.DigestOf(in.ctx, p.Root(), tree.NoSkip)
	if err != nil {
		return err
	}
	there, err := tree.DigestOf(in.ctx, root, tree.NoSkip)
	if err != nil {
		return err
	}
	if here.String() != there.String() {
		result.State, result.Reason = Skipped, "a project with this id exists and has other files"
		return nil
	}
	head, err := in.depot.versions.Newest(r.user, r.project)
	if err != nil {
		return err
	}
	result.State, result.Files, result.Bytes = Present, here.Files, here.Bytes
	return in.depot.setStatus(r, status{Done: true, By: in.message, Digest: here.String(), Head: head, When: time.Now()})
}

const unfitReason = "it does not fit on the disk of its user"

// unfit reports whether err means that something does not fit on the disk of a user who
// moves, although that is as large as the one the user comes from: then programs have made
// files of which a copy is larger. On any other disk, and if the disk of the cell is full,
// nothing may be left out.
func (in *importer) unfit(user dreamcore.UserID, err error) bool {
	if !in.move || !errors.Is(err, syscall.ENOSPC) {
		return false
	}
	size, err := in.depot.volumes.DiskSize(user)
	return err == nil && in.disk > 0 && size >= in.disk && in.depot.volumes.CheckFree() == nil
}

// fill copies a tree and returns its digest.
func (in *importer) fill(root *os.Root, f *tree.Filler, result *Result) (*tree.Digest, error) {
	digest := tree.NewDigest()
	missing := "/" // a directory that did not fit, and everything in it does not either
	for e, err := range tree.Walk(in.ctx, root, result.skip) {
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(e.Path, missing) {
			continue
		}
		src, err := e.Open()
		if err != nil {
			result.skip(e.Path, tree.UnreadableReason)
			result.partial = true
			continue
		}
		size, sum, err := f.Put(in.ctx, e, in.copied.reader(src))
		src.Close()
		if in.unfit(result.User, err) {
			result.skip(e.Path, unfitReason)
			if e.Mode.IsDir() {
				missing = e.Path + "/"
			}
			continue
		}
		if dreamcore.CodeOf(err) == dreamcore.CodeInvalid {
			result.skip(e.Path, "its path is not valid in a project, or too long")
			continue
		}
		if err != nil {
			return nil, err
		}
		digest.Add(e, size, sum)
	}
	return digest, nil
}

// versions imports the versions in root, and makes one of fresh.
func (in *importer) versions(r ref, root, fresh *os.Root, result *Result) (head string, err error) {
	d := in.depot
	info, err := root.Lstat(gitDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil || !info.IsDir():
		result.note("its versions were left out: .git is not a directory")
		result.partial = true
	default:
		git, err := tree.OpenDirs(root, gitDir)
		if err != nil {
			result.note("its versions were left out: .git cannot be opened")
			result.partial = true
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
			result.partial = true
		}
	}
	head, _, err = d.versions.Commit(in.ctx, r.user, r.project, fresh, in.message, time.Now())
	return head, err
}

// save makes a version of files that are about to be replaced.
func (d *Depot) save(ctx context.Context, r ref) error {
	_, err := project.New(d.volumes, d.versions).Commit(ctx, r.user, r.project, "Before an import")
	return err
}

func (d *Depot) statusFile(r ref) string {
	return filepath.Join(d.opts.StateDir, importsDir, string(r.user), string(r.project)+".json")
}

// status returns the zero status if there is no readable one.
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
		err = statefile.ReplaceCacheFile(name, fileMode, statefile.Bytes(raw))
	}
	if err != nil {
		return fileError("write", name, err)
	}
	return nil
}

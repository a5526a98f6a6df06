package archive

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

func hashOf(r io.Reader) (size int64, sum []byte, err error) {
	h := sha256.New()
	size, err = io.Copy(h, r)
	return size, h.Sum(nil), err
}

// Restore checks a backup and restores everything in it. Projects are imported as
// by Import. CodeConflict: there are projects already, or secrets if the backup
// has some; force replaces their files and keeps their versions.
func (d *Depot) Restore(ctx context.Context, src string, force bool) (report Report, err error) {
	contents, err := check(ctx, src, d.meter, true, bounds{})
	if err != nil {
		return report, err
	}
	if contents.User != "" {
		return report, &dreamcore.Error{Code: dreamcore.CodeInvalid, Reason: ReasonNotBackup, Message: src + " holds one user, not an installation", Hint: "restore a file that dreamcore backup has made"}
	}
	spool, unlock, err := d.openImports()
	if err != nil {
		return report, err
	}
	defer unlock()
	if !force {
		if err := d.checkEmpty(ctx, contents); err != nil {
			return report, err
		}
	}
	in := &importer{depot: d, ctx: ctx, opts: ImportOptions{Force: force}, message: restoreMessage, report: &report}
	o := &restorer{importer: in, force: force}
	defer o.closeHome()
	return report, errors.Join(readTar(ctx, src, spool, in, o.other), o.closeHome())
}

// checkEmpty refuses to restore into an installation that has content. The
// projects of an interrupted restore do not count.
func (d *Depot) checkEmpty(ctx context.Context, c Contents) error {
	refs, err := d.refs(ctx, Scope{})
	if err != nil {
		return err
	}
	for _, r := range refs {
		if d.status(r).By != restoreMessage {
			return &dreamcore.Error{Code: dreamcore.CodeConflict, Reason: ReasonNotEmpty, Message: "there are projects already"}
		}
	}
	if !c.Secrets {
		return nil
	}
	found, err := namesIn(filepath.Join(d.opts.StateDir, secretsDir), func(name string) bool { return filepath.Ext(name) == sealed })
	if err != nil {
		return fileError("read", d.opts.StateDir, err)
	}
	if len(found) > 0 {
		return &dreamcore.Error{Code: dreamcore.CodeConflict, Reason: ReasonNotEmpty, Message: "there are secrets already"}
	}
	return nil
}

// restorer restores everything that is not a project.
type restorer struct {
	*importer
	force  bool
	home   *volume.Home // that is being filled; may be nil
	homeOf ref
	filler *tree.Filler
	unlock func()
}

func (o *restorer) other(e tree.Entry, src io.Reader) error {
	parts := strings.SplitN(e.Path, "/", 4)
	switch {
	case parts[0] == homesDir && len(parts) >= 3:
		return o.homeEntry(e, parts, src)
	case parts[0] == volumesDir && len(parts) >= 2:
		return o.volumeEntry(e, src)
	case len(parts) == 2 && e.Mode.IsRegular() && parts[0] == jobsDir && filepath.Ext(e.Path) == ".ndjson",
		len(parts) == 2 && e.Mode.IsRegular() && parts[0] == secretsDir && (filepath.Ext(e.Path) == sealed || parts[1] == identityFile),
		e.Path == configName && e.Mode.IsRegular():
		return o.ownFile(e, src)
	case e.Path == labelName, e.Path == manifestName:
		return nil
	}
	return o.importer.other(e, src)
}

// ownFile writes a file of the state directory as a whole or not at all. An
// existing file is kept unless force is set.
func (o *restorer) ownFile(e tree.Entry, src io.Reader) error {
	dest := filepath.Join(o.depot.opts.StateDir, filepath.FromSlash(e.Path))
	if _, err := os.Lstat(dest); err == nil && !o.force {
		if e.Path == configName || strings.HasPrefix(e.Path, secretsDir+"/") {
			o.note(fmt.Sprintf("%q exists already and was kept", e.Path))
		}
		return nil
	}
	err := os.MkdirAll(filepath.Dir(dest), dirMode)
	if err == nil && strings.HasPrefix(e.Path, secretsDir+"/") {
		// setup removes unfinished files of secrets, with this lock held.
		dir, err := os.Open(filepath.Dir(dest))
		if err == nil {
			defer dir.Close()
			err = statefile.Lock(o.ctx, dir)
		}
		if err != nil {
			return fileError("lock", filepath.Dir(dest), err)
		}
	}
	if err == nil {
		err = statefile.ReplaceFile(dest, fileMode, func(f *os.File) error {
			_, err := io.Copy(f, src)
			return err
		})
	}
	if err != nil {
		return fileError("write", dest, err)
	}
	return nil
}

// homeEntry fills the homes of projects. The project stays locked meanwhile.
func (o *restorer) homeEntry(e tree.Entry, parts []string, src io.Reader) error {
	user, err := dreamcore.ParseUserID(parts[1])
	name, isSession := strings.CutSuffix(parts[2], ".session")
	project, err2 := dreamcore.ParseProjectID(name)
	if err != nil || err2 != nil {
		return o.importer.other(e, src)
	}
	if err := o.openHome(ref{user, project}); err != nil {
		return err
	}
	if o.home == nil {
		return nil // its project was not imported
	}
	if isSession && len(parts) == 3 {
		const longest = 64 // bytes
		raw, err := io.ReadAll(io.LimitReader(src, longest))
		if err != nil {
			return err
		}
		return o.home.SetSession(strings.TrimSpace(string(raw)))
	}
	if len(parts) < 4 {
		return nil
	}
	e.Path = parts[3]
	if _, _, err := o.filler.Put(o.ctx, e, src); err != nil {
		if code := dreamcore.CodeOf(err); code != dreamcore.CodeInvalid && code != dreamcore.CodeTooLarge && !o.unfit(o.homeOf.user, err) {
			return err
		}
		o.note(fmt.Sprintf("%q left out: %v", e.Path, err))
	}
	return nil
}

func (o *restorer) openHome(r ref) error {
	if o.filler != nil && r == o.homeOf {
		return nil
	}
	if err := o.closeHome(); err != nil {
		return err
	}
	o.homeOf = r
	results := o.report.Projects
	if len(results) == 0 || (ref{results[len(results)-1].User, results[len(results)-1].Project}) != r || results[len(results)-1].State != Copied {
		return nil // the existing conversation continues
	}
	unlock, err := o.depot.lock(o.ctx, r)
	if err != nil {
		return err
	}
	home, err := o.depot.volumes.Home(r.user, r.project)
	if err != nil {
		unlock()
		if o.unfit(r.user, err) {
			o.note("the agent's home of project " + string(r.project) + ": " + unfitReason)
			return nil
		}
		return err
	}
	o.home, o.unlock = home, unlock
	o.filler, err = home.Fill()
	return err
}

func (o *restorer) closeHome() error {
	if o.home == nil {
		return nil
	}
	var err error
	if o.filler != nil { // nil if the home could not be emptied
		err = o.filler.Finish()
	}
	err = errors.Join(err, o.home.Close())
	o.unlock()
	o.home, o.filler, o.homeOf = nil, nil, ref{}
	return err
}

// volumeEntry writes a file to a volume. An existing file is kept unless force is
// set.
func (o *restorer) volumeEntry(e tree.Entry, src io.Reader) error {
	_, rest, _ := strings.Cut(e.Path, "/")
	name, path, _ := strings.Cut(rest, "/")
	if name == volume.Data {
		return o.importer.other(e, src)
	}
	if _, err := o.depot.volumes.Create(name); err != nil {
		return err
	}
	if path == "" {
		return nil
	}
	root, err := o.depot.volumes.OpenVolume(name)
	if err != nil {
		return err
	}
	defer root.Close()
	e.Path = path
	err = tree.PutFile(o.ctx, root, e, src, o.force)
	if code := dreamcore.CodeOf(err); code == dreamcore.CodeConflict {
		return nil
	} else if err != nil && code == dreamcore.CodeInvalid {
		o.note(fmt.Sprintf("%q left out: %v", "volumes/"+rest, err))
		return nil
	}
	return err
}

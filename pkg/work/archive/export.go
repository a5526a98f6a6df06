package archive

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
	"github.com/notef-neighbor/dreamcore/pkg/work/project"
)

// Export writes projects with their versions to dest: a tar if it is named .tar,
// .tar.gz or .tar.zst, and a directory otherwise. CodeConflict: dest exists; force
// replaces a tar.
func (d *Depot) Export(ctx context.Context, scope Scope, dest string, force bool) (report Report, err error) {
	refs, err := d.refs(ctx, scope)
	if err != nil {
		return report, err
	}
	out, err := openSink(dest, force, *d.opts.Owner, d.meter)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, out.close()) }()
	if report.Projects, err = d.exportAll(ctx, refs, out, nil, func(ref) error { return nil }); err != nil {
		return report, err
	}
	return report, out.finish()
}

// budget bounds what the copy of one user takes, however the user's programs have made the
// files.
type budget struct {
	links tree.Links
	names int
	bytes int64 // of files, with their holes
}

// excess returns the reason why an entry is left out, or "". A nil budget has no bounds.
func (b *budget) excess(e tree.Entry) string {
	switch {
	case b == nil:
		return ""
	case b.links.Excess(e):
		return tree.LinkedReason
	case b.names == 0 || e.Size > b.bytes:
		return "the user has too many files, or too large ones, in all projects together"
	}
	b.names--
	b.bytes -= e.Size
	return ""
}

// exportAll exports projects within a budget, which may be nil, and calls then for each.
func (d *Depot) exportAll(ctx context.Context, refs []ref, out sink, limit *budget, then func(ref) error) (results []Result, err error) {
	for i, r := range refs {
		d.meter.projects(i, len(refs), r.project)
		result, err := d.exportProject(ctx, r, out, limit)
		if err != nil {
			return results, err
		}
		results = append(results, result)
		if err := then(r); err != nil {
			return results, err
		}
	}
	d.meter.projects(len(refs), len(refs), "")
	return results, nil
}

// exportProject writes one project in its state between two changes, or, if it
// stays in use, in the state of its newest version.
func (d *Depot) exportProject(ctx context.Context, r ref, out sink, limit *budget) (result Result, err error) {
	result = Result{User: r.user, Project: r.project, State: Copied}
	w := &exporter{ctx: ctx, out: out, ref: r, result: &result, budget: limit, left: tree.MaxCopyBytes}
	unlock, err := d.lock(ctx, r)
	switch {
	case dreamcore.CodeOf(err) == dreamcore.CodeConflict && ctx.Err() == nil:
		result.note("in use: copied from its newest version")
		result.partial = true
		err = d.exportVersion(w)
	case err != nil:
	default:
		defer unlock()
		err = d.exportFiles(w)
	}
	var excess error // of the files; the versions are within the limits
	if dreamcore.CodeOf(err) == dreamcore.CodeTooLarge && w.broken == nil {
		excess, err = err, nil
	}
	if err == nil {
		err = d.exportHistory(w)
	}
	if result.excess = excess != nil && err == nil; result.excess {
		err = excess
	}
	if err != nil && w.broken == nil {
		// The project cannot be read. Its entries in the archive are valid, and
		// the result says that they are incomplete.
		err = result.fail(ctx, err)
	}
	return result, err
}

type exporter struct {
	ctx    context.Context
	out    sink
	ref    ref
	result *Result
	budget *budget
	left   int64 // bytes of files that still fit into a project
	broken error // an error of writing: nothing more can be written
}

// begin writes the directory of the project.
func (w *exporter) begin(modified time.Time) error {
	_, _, w.broken = w.out.put(w.ctx, tree.Entry{Path: w.ref.path(), Mode: fs.ModeDir | 0o755, Modified: modified}, nil)
	return w.broken
}

// wants reports whether an entry is part of the copy, and notes why not.
func (w *exporter) wants(e tree.Entry) bool {
	reason, out := project.LeftOut(e.Path)
	if !out && e.Size > w.left {
		reason, out = "the project is larger than 4 GiB", true
	}
	if !out {
		if excess := w.budget.excess(e); excess != "" {
			reason, out = excess, true
		}
	}
	if reason != "" {
		w.result.skip(e.Path, reason)
	}
	return !out
}

// file writes an entry that wants accepts, and closes its content.
func (w *exporter) file(e tree.Entry, src io.ReadCloser) error {
	if err := errors.Join(w.put(e, src), src.Close()); err != nil {
		return err
	}
	if e.Mode.IsRegular() {
		w.left -= e.Size
		w.result.Files++
		w.result.Bytes += e.Size
	}
	return nil
}

// put writes an entry of the project.
func (w *exporter) put(e tree.Entry, src io.Reader) error {
	e = restrictMode(e)
	e.Path = w.ref.path() + "/" + e.Path
	_, _, err := w.out.put(w.ctx, e, src)
	if errors.Is(err, errChanged) {
		w.result.note(err.Error() + ": " + e.Path)
		w.result.partial = true
		return nil
	}
	switch dreamcore.CodeOf(err) {
	case dreamcore.CodeInvalid: // a tar accepts paths that a directory does not
		w.result.skip(e.Path, "its path is not valid in a project, or too long")
		return nil
	case dreamcore.CodeTooLarge: // this project alone: each has its own limits
		return err
	}
	w.broken = err
	return err
}

func (d *Depot) exportFiles(w *exporter) error {
	p, err := d.volumes.Find(w.ref.user, w.ref.project)
	if err != nil {
		return err
	}
	defer p.Close()
	info, err := p.Root().Stat(".")
	if err != nil {
		return err
	}
	if err := w.begin(info.ModTime()); err != nil {
		return err
	}
	skip := func(path, reason string) {
		w.result.partial = w.result.partial || reason == tree.UnreadableReason
		w.result.skip(path, reason)
	}
	for e, err := range tree.Walk(w.ctx, p.Root(), skip) {
		if err != nil {
			return err
		}
		if !w.wants(e) {
			continue
		}
		f, err := e.Open()
		if err != nil {
			skip(e.Path, tree.Unreadable(e.Mode, err))
			continue
		}
		if err := w.file(e, f); err != nil {
			return err
		}
	}
	return nil
}

func (d *Depot) exportVersion(w *exporter) error {
	items, _, err := d.versions.Items(w.ctx, w.ref.user, w.ref.project)
	if err != nil {
		return err
	}
	now := time.Now()
	if err := w.begin(now); err != nil {
		return err
	}
	for _, i := range items {
		e := tree.Entry{Path: i.Path, Mode: i.Mode, Size: i.Size, Modified: now}
		if !w.wants(e) {
			continue
		}
		r, err := i.Open()
		if err != nil {
			return err
		}
		if i.Mode&fs.ModeSymlink != 0 {
			target, err := io.ReadAll(io.LimitReader(r, dreamcore.MaxPathBytes))
			if err != nil {
				return errors.Join(err, r.Close())
			}
			e.Link, e.Size = string(target), 0
		}
		if err := w.file(e, r); err != nil {
			return err
		}
	}
	return nil
}

func (d *Depot) exportHistory(w *exporter) error {
	count, err := d.versions.Count(w.ctx, w.ref.user, w.ref.project)
	if err != nil {
		return err
	}
	now := time.Now()
	first := true
	return d.versions.Copy(w.ctx, w.ref.user, w.ref.project, func(name string, size int64, r io.Reader) error {
		if first {
			first = false
			// Git takes a directory for a repository only if it has these.
			for _, dir := range []string{gitDir, gitDir + "/objects", gitDir + "/refs"} {
				if err := w.put(tree.Entry{Path: dir, Mode: fs.ModeDir | 0o755, Modified: now}, nil); err != nil {
					return err
				}
			}
			w.result.Versions = count
		}
		return w.put(tree.Entry{Path: gitDir + "/" + name, Mode: 0o644, Size: size, Modified: now}, r)
	})
}

// putText writes a file from memory.
func putText(ctx context.Context, out sink, path string, mode os.FileMode, text []byte) error {
	_, _, err := out.put(ctx, tree.Entry{Path: path, Mode: mode, Size: int64(len(text)), Modified: time.Now()}, bytes.NewReader(text))
	return err
}

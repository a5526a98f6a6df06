package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
	"github.com/notef-neighbor/dreamcore/pkg/work/archive"
	"github.com/notef-neighbor/dreamcore/pkg/work/project"
)

// openDepot opens what commands about projects work on, without a sandbox.
func (a *app) openDepot() (*daemon.State, *history.Store, error) {
	s, err := a.open()
	if err != nil {
		return s, nil, err
	}
	versions, err := s.OpenHistory(a.logger(s.Config.LogLevel))
	if err != nil {
		return s, nil, errors.Join(err, s.Close())
	}
	return s, versions, nil
}

func newVolumeLsCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "ls VOLUME [PATH]", Short: "List files of a volume", Args: usageArgs(cobra.RangeArgs(1, 2)),
		Example: "  dreamcore volume ls dreamcore-data users",
		RunE: func(c *cobra.Command, args []string) error {
			s, err := a.open()
			if err != nil {
				return err
			}
			defer s.Close()
			p, err := s.Volumes.Locate(c.Context(), args[0], argument(args, 1, "/"), false)
			if err != nil {
				return err
			}
			defer p.Close()
			entries, err := p.List()
			if err != nil {
				return err
			}
			return showEntries(a, entries)
		},
	}
}

func argument(args []string, i int, otherwise string) string {
	if i < len(args) {
		return args[i]
	}
	return otherwise
}

func showEntries(a *app, entries []tree.Entry) error {
	type row struct {
		Name     string     `json:"name"`
		Type     string     `json:"type"`
		Size     int64      `json:"size"`
		Modified *time.Time `json:"modified,omitempty"`
	}
	rows, table := []row{}, term.Table{Columns: []term.Column{{Title: "NAME", Flex: true}, {Title: "TYPE"}, {Title: "MODIFIED"}, {Title: "SIZE", Right: true}}}
	for _, e := range entries {
		r := row{Name: e.Path, Type: kindOf(e.Mode)}
		modified, size := "", ""
		if !e.Modified.IsZero() {
			r.Modified, modified = &e.Modified, e.Modified.Local().Format(time.DateTime)
		}
		if e.Mode.IsRegular() {
			r.Size, size = e.Size, term.Size(e.Size)
		}
		rows = append(rows, r)
		table.Rows = append(table.Rows, term.Row(e.Path, r.Type, modified, size))
	}
	if a.io.JSON {
		return a.io.WriteJSON(map[string]any{"entries": rows})
	}
	a.io.Stdout().Table(table)
	return nil
}

func kindOf(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "dir"
	case m.IsRegular():
		return "file"
	case m&fs.ModeSymlink != 0:
		return "link"
	}
	return "other"
}

func newVolumeGetCmd(a *app) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "get VOLUME REMOTE [LOCAL]", Short: "Copy a file or a directory out of a volume",
		Long: "Copies a file or a directory out of a volume, to LOCAL (default: here). \"-\" is\n" +
			"standard output, for one file. Links and special files are left out.",
		Example: "  dreamcore volume get dreamcore-data users/UUID/projects/UUID game",
		Args:    usageArgs(cobra.RangeArgs(2, 3)),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := a.open()
			if err != nil {
				return err
			}
			defer s.Close()
			p, err := s.Volumes.Locate(c.Context(), args[0], args[1], false)
			if err != nil {
				return err
			}
			defer p.Close()
			g := getter{a: a, place: p, name: path.Base(path.Clean("/" + args[1])), force: force}
			return g.run(c.Context(), argument(args, 2, "."))
		},
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "replace files that exist")
	return c
}

// owner owns what is copied out of the stores: the user who runs this command,
// also by sudo.
func (a *app) owner() *archive.Owner {
	if uid, gid, ok := config.Invoker(a.environ); ok {
		return &archive.Owner{UID: uid, GID: gid}
	}
	return &archive.Owner{UID: os.Geteuid(), GID: os.Getegid()}
}

// giveAway gives a directory that was made now, and all in it, to the owner.
func (a *app) giveAway(dir string) error {
	o := a.owner()
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

// makeLocal makes a directory of the operator's, where it is missing.
func (a *app) makeLocal(local string) error {
	_, before := os.Stat(local)
	if err := os.MkdirAll(local, 0o755); err != nil {
		return err
	}
	if !errors.Is(before, fs.ErrNotExist) {
		return nil
	}
	o := a.owner()
	return os.Chown(local, o.UID, o.GID)
}

type getter struct {
	a     *app
	place *volume.Location
	name  string
	force bool
}

func (g getter) run(ctx context.Context, local string) error {
	if g.place.Root == nil {
		return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "name a project, or something in one", Hint: "all projects at once, with their versions: dreamcore export --all DIR"}
	}
	if !g.place.IsDir() {
		return g.file(ctx, local)
	}
	if local == "-" {
		return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "a directory does not fit into standard output", Hint: "name a directory to copy it to"}
	}
	if info, err := os.Stat(local); err == nil && info.IsDir() && g.name != "/" {
		local = filepath.Join(local, g.name) // as cp -r does it
	}
	src, err := tree.OpenDirs(g.place.Root, g.place.Path)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := g.a.makeLocal(local); err != nil {
		return localError(local, err)
	}
	dest, err := os.OpenRoot(local)
	if err != nil {
		return localError(local, err)
	}
	defer dest.Close()
	return g.tree(ctx, src, dest, local)
}

func (g getter) tree(ctx context.Context, src, dest *os.Root, local string) error {
	t := newTally(g.a, "Copying to "+local)
	defer t.stop()
	for e, err := range tree.Walk(ctx, src, t.skip) {
		if err != nil {
			return err
		}
		if reason, out := project.LeftOut(e.Path); out {
			if reason != "" {
				t.skip(e.Path, reason)
			}
			continue
		}
		if e.Mode&fs.ModeSymlink != 0 {
			t.skip(e.Path, "links are not followed")
			continue
		}
		content, err := e.Open()
		if err != nil {
			t.skip(e.Path, "it cannot be read")
			continue
		}
		err = g.put(ctx, dest, e, content)
		if err = errors.Join(err, content.Close()); err != nil {
			return err
		}
		t.add(e)
	}
	return t.end(g.a)
}

func (g getter) file(ctx context.Context, local string) error {
	f, info, err := tree.OpenFile(g.place.Root, g.place.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	if local == "-" {
		_, err := io.Copy(g.a.io.Out, f)
		return err
	}
	if info, err := os.Stat(local); err == nil && info.IsDir() {
		local = filepath.Join(local, g.name)
	}
	dir, err := os.OpenRoot(filepath.Dir(local))
	if err != nil {
		return localError(local, err)
	}
	defer dir.Close()
	e := tree.Entry{Path: filepath.Base(local), Mode: info.Mode().Perm(), Size: info.Size()}
	t := newTally(g.a, "Copying to "+local)
	defer t.stop()
	if err := g.put(ctx, dir, e, f); err != nil {
		return err
	}
	t.add(e)
	return t.end(g.a)
}

// put writes an entry below dest, for the user who runs this. A directory that
// is there keeps its owner.
func (g getter) put(ctx context.Context, dest *os.Root, e tree.Entry, content io.Reader) error {
	_, before := dest.Lstat(e.Path)
	if err := tree.PutFile(ctx, dest, e, content, g.force); err != nil || e.Mode.IsDir() && before == nil {
		return err
	}
	o := g.a.owner()
	if err := dest.Lchown(e.Path, o.UID, o.GID); err != nil {
		return localError(e.Path, err)
	}
	return nil
}

func localError(name string, err error) error {
	return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: fmt.Sprintf("cannot use %q", name), Hint: "check it with ls -ld, or name another", Err: err}
}

func newVolumePutCmd(a *app) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "put VOLUME LOCAL [REMOTE]", Short: "Copy a file or a directory into a volume",
		Long: "Copies a file or a directory into a volume; a REMOTE that ends in / is the\n" +
			"directory it goes into. \"-\" is standard input, for one file. What is put into a\n" +
			"project is put whole or not at all, and makes a version. Links are left out.",
		Example: "  dreamcore volume put dreamcore-global skills/threejs /.claude/skills/",
		Args:    usageArgs(cobra.RangeArgs(2, 3)),
		RunE: func(c *cobra.Command, args []string) error {
			s, versions, err := a.openDepot()
			if err != nil {
				return err
			}
			defer s.Close()
			remote := argument(args, 2, "/")
			if args[1] == "-" && strings.HasSuffix(remote, "/") {
				return misuse(c, errors.New("standard input has no name: say what REMOTE is called"))
			}
			if strings.HasSuffix(remote, "/") {
				abs, err := filepath.Abs(args[1])
				if err != nil {
					return err
				}
				remote += filepath.Base(abs)
			}
			place, err := s.Volumes.Locate(c.Context(), args[0], remote, true)
			if err != nil {
				return err
			}
			defer place.Close()
			p := putter{a: a, volumes: s.Volumes, versions: versions, place: place, force: force}
			return p.run(c.Context(), args[1])
		},
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "replace files that exist")
	return c
}

type putter struct {
	a        *app
	volumes  *volume.Store
	versions *history.Store
	place    *volume.Location
	force    bool
}

func (p putter) run(ctx context.Context, local string) error {
	if p.place.Root == nil {
		return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "files can be put into projects only", Hint: "name users/UUID/projects/UUID and a path, or take in an old volume: dreamcore import DIR"}
	}
	if local == "-" {
		raw, err := io.ReadAll(io.LimitReader(input{ctx, p.a.io.In}, maxStdin+1))
		if err == nil && len(raw) > maxStdin {
			err = &dreamcore.Error{Code: dreamcore.CodeTooLarge, Message: "standard input is larger than 256 MiB", Hint: "put it from a file"}
		}
		if err != nil {
			return err
		}
		return p.put(ctx, []local1{{entry: tree.Entry{Path: p.place.Path, Mode: 0o644, Size: int64(len(raw))}, open: func() (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(raw)), nil
		}}}, newTally(p.a, "Copying standard input"))
	}
	info, err := os.Stat(local)
	if err != nil {
		return localError(local, err)
	}
	t := newTally(p.a, "Copying "+local)
	defer t.stop()
	if !info.IsDir() {
		if !info.Mode().IsRegular() {
			return localError(local, errors.New("it is neither a file nor a directory"))
		}
		return p.put(ctx, []local1{{entry: tree.Entry{Path: p.place.Path, Mode: info.Mode().Perm(), Size: info.Size()}, open: func() (io.ReadCloser, error) { return os.Open(local) }}}, t)
	}
	root, err := os.OpenRoot(local)
	if err != nil {
		return localError(local, err)
	}
	defer root.Close()
	var files []local1
	for e, err := range tree.Walk(ctx, root, t.skip) {
		if err != nil {
			return err
		}
		if !e.Mode.IsRegular() {
			if !e.Mode.IsDir() {
				t.skip(e.Path, "links are not followed")
			}
			continue
		}
		name := e.Path
		e.Path = path.Join(p.place.Path, name)
		files = append(files, local1{e, func() (io.ReadCloser, error) {
			f, _, err := tree.OpenFile(root, name)
			return f, err
		}})
	}
	return p.put(ctx, files, t)
}

// maxStdin bounds what is kept of standard input.
const maxStdin = 256 << 20

// local1 is a file that is put.
type local1 struct {
	entry tree.Entry
	open  func() (io.ReadCloser, error)
}

func (p putter) put(ctx context.Context, files []local1, t *tally) error {
	defer t.stop()
	if !p.force {
		for _, f := range files {
			if _, err := p.place.Root.Lstat(f.entry.Path); err == nil {
				return &dreamcore.Error{Code: dreamcore.CodeConflict, Message: f.entry.Path + " exists already", Hint: "replace it with --force"}
			}
		}
	}
	if p.place.Project != "" {
		if err := p.apply(ctx, files, t); err != nil {
			return err
		}
		return t.end(p.a)
	}
	for _, f := range files {
		src, err := f.open()
		if err != nil {
			return localError(f.entry.Path, err)
		}
		err = tree.PutFile(ctx, p.place.Root, f.entry, src, p.force)
		if err = errors.Join(err, src.Close()); err != nil {
			return err
		}
		t.add(f.entry)
	}
	return t.end(p.a)
}

// apply puts files into a project, and makes a version.
func (p putter) apply(ctx context.Context, files []local1, t *tally) error {
	editor := project.New(p.volumes, p.versions)
	unlock, err := editor.Lock(ctx, p.place.User, p.place.Project)
	if err != nil {
		return err
	}
	defer unlock()
	var changes []project.Change
	for _, f := range files {
		changes = append(changes, project.Change{Path: f.entry.Path, Write: func(w io.Writer) error {
			src, err := f.open()
			if err != nil {
				return localError(f.entry.Path, err)
			}
			_, err = io.Copy(w, src)
			t.add(f.entry)
			return errors.Join(err, src.Close())
		}})
	}
	_, err = editor.Apply(ctx, p.place.User, p.place.Project, changes, "Files put by the operator")
	return err
}

func newVolumeRmCmd(a *app) *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "rm VOLUME PATH", Short: "Remove a file of a volume, or a directory with -r",
		Long: "Removes a file of a volume, or a directory with all that is in it. In a project\n" +
			"this makes a version, so that it can be undone.",
		Args: usageArgs(cobra.ExactArgs(2)),
		RunE: func(c *cobra.Command, args []string) error {
			s, versions, err := a.openDepot()
			if err != nil {
				return err
			}
			defer s.Close()
			p, err := s.Volumes.Locate(c.Context(), args[0], args[1], false)
			if err != nil {
				return err
			}
			defer p.Close()
			switch {
			case p.Root == nil || p.Path == ".":
				return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "a whole project or volume is not removed", Hint: "name what is in it: dreamcore volume ls " + args[0] + " " + args[1]}
			case p.Project == "":
				err = tree.Remove(p.Root, p.Path, all)
			default:
				err = removeFromProject(c.Context(), s.Volumes, versions, p, all)
			}
			if err != nil {
				return err
			}
			if a.io.JSON {
				return a.io.WriteJSON(map[string]any{"removed": args[1]})
			}
			a.io.Stdout().Success(args[1] + " removed")
			return nil
		},
	}
	c.Flags().BoolVarP(&all, "recursive", "r", false, "remove a directory with all that is in it")
	return c
}

func removeFromProject(ctx context.Context, volumes *volume.Store, versions *history.Store, p *volume.Location, all bool) error {
	editor := project.New(volumes, versions)
	unlock, err := editor.Lock(ctx, p.User, p.Project)
	if err != nil {
		return err
	}
	defer unlock()
	return editor.Remove(ctx, p.User, p.Project, p.Path, all)
}

// tally shows how a copy goes on, and what it left out.
type tally struct {
	line  *term.Progress
	out   *term.Printer
	text  string
	files int
	bytes int64
	left  []string // as many as are named
	more  int      // that are left out and not named
}

func newTally(a *app, text string) *tally {
	out := a.io.Stderr()
	return &tally{out: out, text: text, line: out.Progress(text)}
}

func (t *tally) stop() { t.line.Stop() }

func (t *tally) add(e tree.Entry) {
	if !e.Mode.IsRegular() {
		return
	}
	t.files++
	t.bytes += e.Size
	if t.out.Terminal() {
		t.line.Update(fmt.Sprintf("%s: %d files, %s", t.text, t.files, term.Size(t.bytes)))
	}
}

func (t *tally) skip(name, reason string) {
	const enough = 1000 // names that a sandbox has chosen
	if len(t.left) == enough {
		t.more++
		return
	}
	t.left = append(t.left, fmt.Sprintf("%q left out: %s", name, reason))
}

func (t *tally) end(a *app) error {
	t.stop()
	if t.more > 0 {
		t.left = append(t.left, fmt.Sprintf("%d more left out", t.more))
	}
	if a.io.JSON {
		return a.io.WriteJSON(map[string]any{"files": t.files, "bytes": t.bytes, "left_out": append([]string{}, t.left...)})
	}
	for _, l := range t.left {
		a.io.Stderr().Warning(l)
	}
	a.io.Stderr().Success(fmt.Sprintf("%d files copied", t.files), term.Size(t.bytes))
	return nil
}

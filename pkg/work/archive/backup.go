package archive

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// A backup is a tar:
//
//	dreamcore-backup.json    the label
//	config.yaml              of the state directory, if it has one
//	volumes/NAME/…           every volume except that of the projects
//	users/U/projects/P/…     each project, followed by
//	homes/U/P.session        the agent's conversation in the project, and
//	homes/U/P/…              the agent's home
//	jobs/JOB.ndjson          event logs, if requested
//	secrets/…                sealed secrets, if requested
//	MANIFEST                 a line for each entry, with its hash
const (
	labelName    = "dreamcore-backup.json"
	manifestName = "MANIFEST"
	configName   = "config.yaml"
	homesDir     = "homes"
	volumesDir   = "volumes"
	jobsDir      = "jobs"
	secretsDir   = "secrets"
	identityFile = "identity"
	sealed       = ".age"

	labelFormat = 1
)

// label is the first entry of a backup.
type label struct {
	Format   int       `json:"format"`
	App      string    `json:"app"`
	Created  time.Time `json:"created"`
	Secrets  bool      `json:"secrets"`
	Identity bool      `json:"identity"`
	Journals bool      `json:"journals"`

	User dreamcore.UserID `json:"user,omitempty"` // whose everything this is; "" for an installation
	Disk int64            `json:"disk,omitempty"` // size of the disk of the user in bytes; 0 without one
}

// BackupOptions selects what a backup contains besides projects and volumes.
type BackupOptions struct {
	Secrets  bool // sealed
	Identity bool // the key that opens the secrets
	Journals bool
	Force    bool // replace an existing file
}

// Backup writes a whole installation to dest, a .tar, .tar.gz or .tar.zst, while
// it is in use. Each project is saved in its state between two changes, or, if it
// stays in use, in the state of its newest version, which the report notes. dest
// appears when it is complete.
func (d *Depot) Backup(ctx context.Context, dest string, opts BackupOptions) (report Report, err error) {
	if formatOf(dest) == notTar {
		return report, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "a backup is one file", Hint: "name it .tar, .tar.gz or .tar.zst, such as backup.tar.zst"}
	}
	if opts.Identity && !opts.Secrets {
		return report, &dreamcore.Error{Code: dreamcore.CodeInvalid, Reason: ReasonIdentity, Message: "the identity without the secrets opens nothing"}
	}
	refs, err := d.refs(ctx, Scope{})
	if err != nil {
		return report, err
	}
	file, err := openSink(dest, opts.Force, Owner{UID: os.Geteuid(), GID: os.Getegid()}, d.meter)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, file.close()) }()
	out, err := newManifestSink(file, d.opts.StateDir)
	if err != nil {
		return report, fileError("write", d.opts.StateDir, err)
	}
	defer func() { err = errors.Join(err, out.closeManifest()) }()
	b := &backup{depot: d, ctx: ctx, out: out, report: &report}
	text, err := json.Marshal(label{Format: labelFormat, App: dreamcore.AppName, Created: time.Now().UTC(), Secrets: opts.Secrets, Identity: opts.Identity, Journals: opts.Journals})
	if err != nil {
		return report, err
	}
	if err := putText(ctx, out, labelName, fileMode, text); err != nil {
		return report, fileError("write", dest, err)
	}
	steps := []func() error{b.config, b.volumes, func() error { return b.projects(refs) }}
	if opts.Journals {
		steps = append(steps, func() error {
			return b.files(jobsDir, func(name string) bool { return filepath.Ext(name) == ".ndjson" })
		})
	}
	if opts.Secrets {
		steps = append(steps, func() error {
			return b.files(secretsDir, func(name string) bool {
				return filepath.Ext(name) == sealed || name == identityFile && opts.Identity
			})
		})
	}
	for _, step := range append(steps, out.writeManifest) {
		if err := step(); err != nil {
			return report, fileError("write", dest, err)
		}
	}
	return report, out.finish()
}

type backup struct {
	depot  *Depot
	ctx    context.Context
	out    sink
	report *Report

	partial bool    // a file could not be read as it is
	budget  *budget // of everything; nil for no bound
}

// skip returns a function that notes the paths that are left out below prefix,
// which is not a project.
func (b *backup) skip(prefix string) tree.Skip {
	const enough = 1000
	return func(path, reason string) {
		b.partial = b.partial || reason == tree.UnreadableReason
		b.report.Notes = addNote(b.report.Notes, enough, leftOut(prefix+path, reason))
	}
}

func (b *backup) config() error {
	raw, err := os.ReadFile(filepath.Join(b.depot.opts.StateDir, configName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return putText(b.ctx, b.out, configName, fileMode, raw)
}

func (b *backup) volumes() error {
	infos, err := b.depot.volumes.List()
	if err != nil {
		return err
	}
	for _, i := range infos {
		if i.Name == volume.Data {
			continue
		}
		root, err := b.depot.volumes.OpenVolume(i.Name)
		if err != nil {
			return err
		}
		prefix := volumesDir + "/" + i.Name
		err = b.dir(root, prefix, math.MaxInt64)
		if err = errors.Join(err, root.Close()); err != nil {
			return err
		}
	}
	return nil
}

// dir writes a directory, except for files beyond so many bytes: the files of a sandbox
// may have holes, and be larger than any disk.
func (b *backup) dir(root *os.Root, prefix string, left int64) error {
	if _, _, err := b.out.put(b.ctx, tree.Entry{Path: prefix, Mode: fs.ModeDir | 0o755, Modified: time.Now()}, nil); err != nil {
		return err
	}
	skip := b.skip(prefix + "/")
	for e, err := range tree.Walk(b.ctx, root, skip) {
		if dreamcore.CodeOf(err) == dreamcore.CodeTooLarge { // a sandbox can do that
			skip("", "the rest of it: "+err.Error())
			return nil
		}
		if err != nil {
			return err
		}
		if e.Size > left {
			skip(e.Path, fmt.Sprintf("more than %d GiB", tree.MaxCopyBytes>>30))
			continue
		}
		if reason := b.budget.excess(e); reason != "" {
			skip(e.Path, reason)
			continue
		}
		left -= e.Size
		src, err := e.Open()
		if err != nil {
			skip(e.Path, tree.Unreadable(e.Mode, err))
			continue
		}
		path := e.Path
		e.Path = prefix + "/" + path
		_, _, err = b.out.put(b.ctx, e, src)
		src.Close()
		if errors.Is(err, errChanged) {
			skip(path, err.Error())
			b.partial, err = true, nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *backup) projects(refs []ref) (err error) {
	b.report.Projects, err = b.depot.exportAll(b.ctx, refs, b.out, nil, b.home)
	return err
}

func (b *backup) home(r ref) error {
	home, err := b.depot.volumes.FindHome(b.ctx, r.user, r.project)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer home.Close()
	prefix := homesDir + "/" + string(r.user) + "/" + string(r.project)
	if id := home.Session(); id != "" {
		if err := putText(b.ctx, b.out, prefix+".session", fileMode, []byte(id+"\n")); err != nil {
			return err
		}
	}
	return b.dir(home.Root(), prefix, tree.MaxCopyBytes)
}

// files writes the wanted files of a directory of the state.
func (b *backup) files(dir string, wanted func(string) bool) error {
	entries, err := os.ReadDir(filepath.Join(b.depot.opts.StateDir, dir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || !wanted(e.Name()) {
			continue
		}
		if err := b.file(dir, e.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// file writes a file of a directory of the state.
func (b *backup) file(dir, name string) error {
	f, err := os.OpenFile(filepath.Join(b.depot.opts.StateDir, dir, name), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil {
		_, _, err = b.out.put(b.ctx, tree.Entry{Path: dir + "/" + name, Mode: fileMode, Size: info.Size(), Modified: info.ModTime()}, io.LimitReader(f, info.Size()))
	}
	return errors.Join(err, f.Close())
}

// Contents summarizes a backup that was checked.
type Contents struct {
	Created  time.Time `json:"created"`
	Entries  int       `json:"entries"`
	Bytes    int64     `json:"bytes"`
	Projects int       `json:"projects"`
	Secrets  bool      `json:"secrets"`
	Identity bool      `json:"identity"`
	Journals bool      `json:"journals"`

	User  dreamcore.UserID `json:"user,omitempty"` // whose backup this is; "" for a whole installation
	Notes []string         `json:"-"`              // entries that SaveUser left out, with reasons
}

// Check reads a whole backup and compares every entry with the manifest.
// CodeInvalid: the file is damaged, incomplete or not a backup. progress may be nil.
func Check(ctx context.Context, src string, progress func(Progress)) (c Contents, err error) {
	return check(ctx, src, &meter{report: progress}, false, bounds{})
}

// bounds limits an archive of a hostile origin; 0 means no limit.
type bounds struct {
	entries int
	bytes   int64 // of the tar, without compression
}

func (b bounds) check(src string, entries int, bytes int64) error {
	if b.entries > 0 && entries > b.entries || b.bytes > 0 && bytes > b.bytes {
		return &dreamcore.Error{Code: dreamcore.CodeTooLarge, Message: fmt.Sprintf("%s holds more than %d entries or %d bytes", src, b.entries, b.bytes), Hint: "split it"}
	}
	return nil
}

func check(ctx context.Context, src string, m *meter, first bool, most bounds) (c Contents, err error) {
	t, err := openTar(src, m, first)
	if err != nil {
		return c, err
	}
	defer t.close()
	found := newEntryHashes()
	projects := map[ref]bool{}
	for {
		if err := ctx.Err(); err != nil {
			return c, err
		}
		e, err := t.next()
		if err == io.EOF {
			return c, damaged(src, errors.New("it has no manifest at its end"))
		}
		if err == nil {
			err = most.check(src, c.Entries, t.read.n+e.Size)
		}
		if err != nil {
			return c, err
		}
		if c.Entries == 0 {
			if err := c.read(e, t, found); err != nil {
				return c, notBackup(src, err)
			}
			c.Entries++
			continue
		}
		if e.Path == manifestName {
			c.Projects = len(projects)
			return c, found.compare(src, t)
		}
		size, sum, err := hashOf(t)
		if err != nil {
			return c, damaged(src, err)
		}
		found.add(manifestLine(e, size, sum))
		c.Entries++
		c.Bytes += size
		if r, _, ok := parseProject(e.Path); ok {
			projects[r] = true
		}
	}
}

func (c *Contents) read(e tree.Entry, r io.Reader, found *entryHashes) error {
	if e.Path != labelName {
		return errors.New("it does not begin with " + labelName)
	}
	const longest = 4096 // bytes
	raw, err := io.ReadAll(io.LimitReader(r, longest))
	if err != nil {
		return err
	}
	var l label
	if err := json.Unmarshal(raw, &l); err != nil {
		return err
	}
	if l.App != dreamcore.AppName || l.Format != labelFormat {
		return errors.New("it was made by another program or a later version")
	}
	size, sum, err := hashOf(bytes.NewReader(raw))
	found.add(manifestLine(e, size, sum))
	c.Created, c.Secrets, c.Identity, c.Journals, c.User = l.Created, l.Secrets, l.Identity, l.Journals, l.User
	return err
}

func notBackup(src string, err error) error {
	if _, ok := errors.AsType[*dreamcore.Error](err); ok {
		return err
	}
	return &dreamcore.Error{Code: dreamcore.CodeInvalid, Reason: ReasonNotBackup, Message: src + " is not a backup", Err: err}
}

package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/klauspost/compress/zstd"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/block"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// The archive of a user is a backup, compressed with zstd, whose label names the user.
// It holds everything that a deletion of the user removes, and what the user has spent:
//
//	dreamcore-backup.json          the label
//	users/U/projects/P/…           each project with its versions, followed by
//	shots/U/P/HASH-SCREEN.png      pictures of the game in a version
//	homes/U/P.session, homes/U/P/… the agent's conversation and home
//	jobs/JOB.ndjson                event logs; their index is made from them
//	usage/U.ndjson                 the ledger's records of the user
//	blocked/U                      the block, if the user is blocked
//	leftout/U                      what was left out, a line for each note, if anything was
//	MANIFEST
//
// What stays behind: messages to webhooks that wait, which the old cell still sends,
// damaged logs, and the audit log.
const (
	shotsDir   = "shots"
	usageDir   = "usage"
	blockedDir = "blocked"
	leftOutDir = "leftout"

	moveMessage = "Moved from another cell"
)

// UserFormat is how the archive of a user is compressed: the end of its name.
const UserFormat = ".tar.zst"

// Bounds of the archive of a user.
const (
	MaxUserArchive  = 64 << 30 // bytes
	maxUserBytes    = 512 << 30
	maxUserEntries  = 8 << 20
	maxUsageBytes   = 1 << 30
	maxBlockedBytes = 8 << 10
	maxUserNotes    = 100     // of what is left out
	maxNoteBytes    = 1 << 10 // of each
	maxLeftOutBytes = (maxUserNotes + 1) * (maxNoteBytes + 1)
)

// UserParts are what belongs to a user outside of the stores of a Depot.
type UserParts struct {
	Jobs  []string                // ids of the jobs that have logs
	Usage func(w io.Writer) error // writes the records of the ledger
	Block *block.Block            // nil if the user is not blocked
}

// SaveUser writes everything of a user to w. Nothing of it may change meanwhile, and
// everything must be readable: any other error than that of w or ctx means that the
// user cannot be moved as a whole, and says why. What exceeds the limits of a project is
// left out, as in a backup, and noted: the programs of the user can make such files at
// any time, and must not keep the user here.
func (d *Depot) SaveUser(ctx context.Context, user dreamcore.UserID, parts UserParts, w io.Writer) (c Contents, err error) {
	refs, err := d.userRefs(ctx, user)
	if err != nil {
		return c, err
	}
	zip, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return c, err
	}
	stream := &streamSink{tarWriter: tarWriter{Owner{}, tar.NewWriter(zip)}, zip: zip}
	defer func() { err = errors.Join(err, stream.close()) }()
	counted := &countingSink{sink: metered{stream, d.meter}}
	out, err := newManifestSink(counted, d.opts.StateDir)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, out.closeManifest()) }()
	c = Contents{Created: time.Now().UTC(), Journals: true, User: user, Projects: len(refs)}
	disk, err := d.volumes.DiskSize(user)
	if err != nil {
		return c, err
	}
	text, err := json.Marshal(label{Format: labelFormat, App: dreamcore.AppName, Created: c.Created, Journals: true, User: user, Disk: disk})
	if err != nil {
		return c, err
	}
	if err := putText(ctx, out, labelName, fileMode, text); err != nil {
		return c, err
	}
	u := &userSaver{backup: &backup{depot: d, ctx: ctx, out: out, report: &Report{}, budget: &budget{names: maxUserEntries / 2, bytes: maxUserBytes / 2}}, user: user, parts: parts}
	for _, step := range []func() error{func() error { return u.projects(refs) }, u.jobs, u.usage, u.block, u.leftOut, out.writeManifest, out.finish} {
		if err := step(); err != nil {
			return c, err
		}
	}
	c.Notes = briefly(u.report.allNotes())
	c.Entries, c.Bytes = counted.entries-1, counted.bytes // without the manifest, as Check counts
	return c, nil
}

// userRefs returns the projects of a user that have files or versions.
func (d *Depot) userRefs(ctx context.Context, user dreamcore.UserID) (refs []ref, err error) {
	projects, err := d.volumes.Projects(ctx, user)
	if dreamcore.CodeOf(err) == dreamcore.CodeNotFound {
		err = nil // there is no volume yet
	}
	if err != nil {
		return nil, err
	}
	more, err := d.versions.Projects(user)
	if err != nil {
		return nil, err
	}
	projects = append(projects, more...)
	slices.Sort(projects)
	for _, p := range slices.Compact(projects) {
		refs = append(refs, ref{user, p})
	}
	return refs, nil
}

// streamSink writes a compressed tar to a stream.
type streamSink struct {
	tarWriter
	zip *zstd.Encoder
}

func (s *streamSink) finish() error { return errors.Join(s.tar.Close(), s.zip.Close()) }

func (s *streamSink) close() error {
	s.zip.Reset(nil) // ends its goroutines
	return nil
}

// countingSink counts the entries and bytes that are put into a sink.
type countingSink struct {
	sink
	entries int
	bytes   int64
}

func (s *countingSink) put(ctx context.Context, e tree.Entry, src io.Reader) (size int64, sum []byte, err error) {
	size, sum, err = s.sink.put(ctx, e, src)
	s.entries++
	s.bytes += size
	return size, sum, err
}

type userSaver struct {
	*backup
	user  dreamcore.UserID
	parts UserParts
}

func (u *userSaver) projects(refs []ref) error {
	var err error
	u.report.Projects, err = u.depot.exportAll(u.ctx, refs, u.out, u.budget, func(r ref) error {
		return errors.Join(u.shots(r), u.home(r))
	})
	if err != nil {
		return err
	}
	if u.partial {
		return u.incomplete(strings.Join(u.report.Notes, "; "))
	}
	for _, p := range u.report.Projects {
		if p.State != Copied && !p.excess || p.partial {
			return u.incomplete(fmt.Sprintf("project %s: %s", p.Project, strings.Join(append(p.Notes, p.Reason), "; ")))
		}
	}
	return nil
}

func (u *userSaver) shots(r ref) error {
	return u.depot.versions.Shots(u.ctx, r.user, r.project, func(hash, screen string, picture []byte) error {
		return putText(u.ctx, u.out, shotsDir+"/"+string(r.user)+"/"+string(r.project)+"/"+hash+"-"+screen+".png", fileMode, picture)
	})
}

func (u *userSaver) incomplete(why string) error {
	return &dreamcore.Error{Code: dreamcore.CodeConflict, Message: "not everything of the user can be copied: " + why, Hint: "if something uses it, try again; see the log of the service"}
}

func (u *userSaver) jobs() error {
	for _, id := range u.parts.Jobs {
		err := u.file(jobsDir, id+".ndjson")
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed because of its age
		}
		if errors.Is(err, errChanged) {
			err = u.incomplete("job " + id + " is running")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// usage writes the records of the ledger through an unnamed file, because a tar needs
// their size first.
func (u *userSaver) usage() error {
	f, err := os.CreateTemp(u.depot.opts.StateDir, ".usage-*")
	if err != nil {
		return err
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return err
	}
	if err := u.parts.Usage(f); err != nil {
		return err
	}
	size, err := f.Seek(0, io.SeekCurrent)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err == nil {
		_, _, err = u.out.put(u.ctx, tree.Entry{Path: usageDir + "/" + string(u.user) + ".ndjson", Mode: fileMode, Size: size, Modified: time.Now()}, f)
	}
	return err
}

func (u *userSaver) block() error {
	if u.parts.Block == nil {
		return nil
	}
	raw, err := json.Marshal(u.parts.Block)
	if err != nil {
		return err
	}
	return putText(u.ctx, u.out, blockedDir+"/"+string(u.user), fileMode, raw)
}

// leftOut writes what was left out, so that the other cell can tell too.
func (u *userSaver) leftOut() error {
	notes := briefly(u.report.allNotes())
	if len(notes) == 0 {
		return nil
	}
	return putText(u.ctx, u.out, leftOutDir+"/"+string(u.user), fileMode, []byte(strings.Join(notes, "\n")+"\n"))
}

// briefly bounds notes, whose number and names of files the programs of a user choose,
// and makes a line of each.
func briefly(notes []string) (brief []string) {
	for _, n := range notes {
		n = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(n, "\uFFFD"), func(r rune) bool { return !unicode.IsPrint(r) }), " ")
		if len(n) > maxNoteBytes {
			n = strings.ToValidUTF8(n[:maxNoteBytes-len("…")], "") + "…"
		}
		if n != "" {
			brief = addNote(brief, maxUserNotes, n)
		}
	}
	return brief
}

// UserStores take what belongs to a user outside of the stores of a Depot.
type UserStores struct {
	Log   func(job string, written time.Time, r io.Reader) error
	Usage func(r io.Reader) error
	Block func(block.Block) error
}

// CheckUser checks that a file is a whole archive of a user, within its bounds.
// CodeInvalid: it is damaged, incomplete, of another user, or something else;
// CodeTooLarge: it exceeds its bounds.
func CheckUser(ctx context.Context, src string, user dreamcore.UserID) (Contents, error) {
	c, err := check(ctx, src, &meter{}, false, bounds{maxUserEntries, maxUserBytes})
	if err == nil && c.User != user {
		err = &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "the archive is not one of this user", Hint: "send the archive that the other cell has made of this user"}
	}
	return c, err
}

// LoadUser takes over everything in an archive that CheckUser has accepted. Nothing of
// the user may be there; after an error, the caller must remove the incomplete copy. CodeInvalid: the
// archive has something that cannot be taken over as it is. notes name what exceeds the
// limits of a project and was left out, in the other cell too.
func (d *Depot) LoadUser(ctx context.Context, src string, user dreamcore.UserID, stores UserStores) (notes []string, err error) {
	spool, unlock, err := d.openImports()
	if err != nil {
		return nil, err
	}
	defer unlock()
	report := &Report{}
	in := &importer{depot: d, ctx: ctx, message: moveMessage, report: report, move: true}
	l := &userLoader{restorer: &restorer{importer: in}, user: user, stores: stores}
	defer l.closeHome()
	if err := errors.Join(readTar(ctx, src, spool, in, l.other), l.closeHome()); err != nil {
		return nil, err
	}
	for _, p := range report.Projects {
		if p.bad() || p.User != user {
			return nil, badEntry(fmt.Sprintf("project %s: %s", p.Project, strings.Join(append(p.Notes, p.State, p.Reason), "; ")))
		}
	}
	return briefly(append(l.leftOut, report.allNotes()...)), nil
}

func badEntry(why string) error {
	const most = 1000
	return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: fmt.Sprintf("the archive cannot be taken over as it is: %.*s", most, why), Hint: "see the log of this service"}
}

type userLoader struct {
	*restorer
	user    dreamcore.UserID
	stores  UserStores
	leftOut []string // in the other cell
}

// other takes the entries outside of projects.
func (l *userLoader) other(e tree.Entry, src io.Reader) error {
	parts := strings.SplitN(e.Path, "/", 5)
	file := e.Mode.IsRegular()
	if all := l.report.Projects; len(all) > 0 && all[len(all)-1].bad() { // what follows it would only fail because of that
		last := all[len(all)-1]
		return badEntry(fmt.Sprintf("project %s: %s", last.Project, strings.Join(append(last.Notes, last.State, last.Reason), "; ")))
	}
	switch {
	case e.Path == labelName:
		var of label
		if err := json.NewDecoder(src).Decode(&of); err != nil { // it was checked before
			return badEntry("its label cannot be read")
		}
		l.disk = of.Disk
		return nil
	case e.Path == manifestName:
		return nil
	case parts[0] == homesDir && len(parts) >= 3 && parts[1] == string(l.user):
		return l.homeEntry(e, strings.SplitN(e.Path, "/", 4), src)
	case file && parts[0] == shotsDir && len(parts) == 4 && parts[1] == string(l.user):
		if n := len(l.report.Projects); n > 0 && l.report.Projects[n-1].unfit {
			return nil
		}
		return l.shot(parts[2], parts[3], src)
	case file && parts[0] == jobsDir && len(parts) == 2 && filepath.Ext(e.Path) == ".ndjson":
		return l.stores.Log(strings.TrimSuffix(parts[1], ".ndjson"), e.Modified, src)
	case file && e.Path == usageDir+"/"+string(l.user)+".ndjson" && e.Size <= maxUsageBytes:
		return l.stores.Usage(src)
	case file && e.Path == blockedDir+"/"+string(l.user) && e.Size <= maxBlockedBytes:
		var b block.Block
		if err := json.NewDecoder(src).Decode(&b); err != nil {
			return badEntry(e.Path + " is not a block")
		}
		return l.stores.Block(b)
	case file && e.Path == leftOutDir+"/"+string(l.user) && e.Size <= maxLeftOutBytes:
		text, err := io.ReadAll(src)
		l.leftOut = strings.Split(strings.TrimSpace(string(text)), "\n")
		return err
	}
	return badEntry(fmt.Sprintf("%.200q is nothing of this user", e.Path))
}

func (l *userLoader) shot(project, name string, src io.Reader) error {
	id, err := dreamcore.ParseProjectID(project)
	hash, screen, ok := strings.Cut(strings.TrimSuffix(name, ".png"), "-")
	if err != nil || !ok {
		return badEntry(fmt.Sprintf("%.100q is not a picture", name))
	}
	var picture bytes.Buffer
	if _, err := io.Copy(&picture, io.LimitReader(src, history.MaxShotBytes+1)); err != nil {
		return err
	}
	return l.depot.versions.SaveShot(l.ctx, l.user, id, hash, screen, picture.Bytes())
}

// Package relocationtest has cells for tests: the real stores of a state directory, and
// the services over them that take part in a move, without sandboxes.
package relocationtest

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/block"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/store/record"
	"github.com/notef-neighbor/dreamcore/pkg/store/residence"
	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/work/account"
	"github.com/notef-neighbor/dreamcore/pkg/work/archive"
	"github.com/notef-neighbor/dreamcore/pkg/work/job"
	"github.com/notef-neighbor/dreamcore/pkg/work/relocation"
)

// Cell is a cell. Open and Close make it again from its directory, as a restart does.
type Cell struct {
	*relocation.Service
	Dir       string
	DiskBytes int64 // of each user; 0 for no limit
	Residence *residence.Store
	Volumes   *volume.Store
	History   *history.Store
	Journal   *journal.Store
	Records   *record.Store
	Blocks    *block.Store
	Ledger    *usage.Ledger
	Jobs      *job.Service
	Accounts  *account.Service

	t     testing.TB
	close []func() error
}

// New returns a new cell, which the test closes.
func New(t testing.TB) *Cell {
	t.Helper()
	return NewWithDisks(t, 0)
}

// NewWithDisks is New with a file system for each user, which needs root.
func NewWithDisks(t testing.TB, bytes int64) *Cell {
	t.Helper()
	c := &Cell{t: t, Dir: t.TempDir(), DiskBytes: bytes}
	c.Open()
	t.Cleanup(c.Close)
	return c
}

// Open opens the stores.
func (c *Cell) Open() {
	c.t.Helper()
	c.close = nil
	path := func(name string) string { return filepath.Join(c.Dir, name) }
	opened := func(err error, close func() error) {
		c.t.Helper()
		if err != nil {
			c.t.Fatal(err)
		}
		if close != nil {
			c.close = append(c.close, close)
		}
	}
	var err error
	c.Residence, err = residence.Open(path("moves"))
	opened(err, c.Residence.Close)
	c.Volumes, err = volume.Open(path("volumes"), volume.Options{UID: os.Geteuid(), GID: os.Getegid(), DiskBytes: c.DiskBytes, Admit: c.Residence.Admit})
	opened(err, c.Volumes.Close)
	_, err = c.Volumes.Create(volume.Data)
	opened(err, nil)
	c.History, err = history.Open(path("history"), history.Options{})
	opened(err, nil)
	c.Blocks, err = block.Open(path("blocked"))
	opened(err, c.Blocks.Close)
	c.Journal, err = journal.Open(path("jobs"), journal.Options{})
	opened(err, c.Journal.Close)
	c.Records, err = record.Open(path("jobs/index.db"), record.Options{})
	opened(err, c.Records.Close)
	prices, err := usage.ParsePrices(nil)
	opened(err, nil)
	c.Ledger, err = usage.Open(path("usage"), usage.Options{Prices: prices})
	opened(err, c.Ledger.Close)
	away := func(u dreamcore.UserID) bool { return c.Residence.CheckChange(u) != nil }
	c.Jobs = job.New(job.Parts{
		Volumes: c.Volumes, History: c.History, Journal: c.Journal, Records: c.Records, Ledger: c.Ledger, Resume: true,
		Away: away, Lists: c.Residence.Lists,
		Admit: func(u dreamcore.UserID, p dreamcore.ProjectID) error { return c.Accounts.Admit(u, p) },
	}, job.Settings{})
	opened(nil, func() error { c.Jobs.Close(context.Background()); return nil })
	c.Accounts = account.New(account.Parts{
		Volumes: c.Volumes, History: c.History, Blocks: c.Blocks, Logs: c.Journal, Jobs: c.Jobs, Residence: c.Residence,
		Spending: c.Ledger.Spending, UsageDir: path("usage"), AuditDir: path("audit"),
		Forget: func(u dreamcore.UserID, p dreamcore.ProjectID) error { return archive.Forget(c.Dir, u, p) },
	})
	opened(nil, c.Accounts.Close)
	opened(c.Residence.Own(), nil)
	c.Service = relocation.New(relocation.Parts{
		Residence: c.Residence, Accounts: c.Accounts, Jobs: c.Jobs, Journal: c.Journal, Blocks: c.Blocks, Ledger: c.Ledger,
		Depot:    depot{c},
		UsageDir: path("usage"), SpoolDir: path("arrivals"), CheckFree: c.Volumes.CheckFreeFor,
	})
	if err := c.Sweep(); err != nil {
		c.t.Fatal(err)
	}
}

// depot opens a depot for each call, as a service does: several may run at once.
type depot struct{ c *Cell }

func (d depot) open() *archive.Depot {
	return archive.New(d.c.Volumes, d.c.History, archive.Options{StateDir: d.c.Dir, Patience: 200 * time.Millisecond})
}

// SaveUser implements relocation.Depot.
func (d depot) SaveUser(ctx context.Context, user dreamcore.UserID, parts archive.UserParts, w io.Writer) (archive.Contents, error) {
	return d.open().SaveUser(ctx, user, parts, w)
}

// LoadUser implements relocation.Depot.
func (d depot) LoadUser(ctx context.Context, src string, user dreamcore.UserID, stores archive.UserStores) ([]string, error) {
	return d.open().LoadUser(ctx, src, user, stores)
}

// Close closes the stores. It may be called more than once.
func (c *Cell) Close() {
	var err error
	for len(c.close) > 0 {
		last := len(c.close) - 1
		err = errors.Join(err, c.close[last]())
		c.close = c.close[:last]
	}
	if err != nil {
		c.t.Error(err)
	}
}

// Fill makes everything that a user can have: a project of two versions with a picture,
// a conversation, a job that has ended and one that was cut, a record in the ledger. It
// returns the jobs.
func (c *Cell) Fill(user dreamcore.UserID, project dreamcore.ProjectID) (ended, cut string) {
	t := c.t
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, text := range []string{"one", "two"} {
		p, err := c.Volumes.Project(user, project)
		must(err)
		must(p.Root().WriteFile("index.html", []byte(text+" of "+string(user)), 0o644))
		must(p.Root().MkdirAll("assets", 0o755))
		must(p.Root().WriteFile("assets/run.sh", []byte("#!/bin/sh\n"), 0o755))
		_, _, err = c.History.Commit(t.Context(), user, project, p.Root(), "Version "+text, time.Now())
		must(err)
		must(p.Close())
	}
	// The mark of a change that is made of every project that a job has worked on.
	unlock, err := c.Volumes.Lock(t.Context(), user, project)
	must(err)
	unlock()
	head, err := c.History.Newest(user, project)
	must(err)
	must(c.History.SaveShot(t.Context(), user, project, head, "phone", picture()))
	home, err := c.Volumes.Home(user, project)
	must(err)
	must(home.Root().MkdirAll(".claude/projects/x", 0o755))
	must(home.Root().WriteFile(".claude/projects/x/conversation.jsonl", []byte("{\"said\":\"hello\"}\n"), 0o600))
	must(home.SetSession("0b9e2c2e-93c5-4b0c-8a08-9d3c1a5b6f10"))
	must(home.Close())
	ended, cut = dreamcore.NewJobID(user), dreamcore.NewJobID(user)
	for _, id := range []string{ended, cut} {
		log, err := c.Journal.Create(id)
		must(err)
		log.SetOwner(user)
		must(log.Note([]byte(`{"job":{"user":"` + string(user) + `","project":"` + string(project) + `","prompt":"a game","at":"2026-11-01T10:00:00Z","resume":true,"language":"en"}}`)))
		_, err = log.Append(dreamcore.StatusEvent("working"))
		must(err)
		if id == cut {
			must(log.Note([]byte(`{"attempt":{"number":1,"at":"2026-11-01T10:00:01Z"}}`)))
			must(log.Note([]byte(`{"cut":{"at":"2026-11-01T10:00:02Z"}}`)))
			must(log.Suspend())
			continue
		}
		_, err = log.Append(dreamcore.DoneEvent())
		must(err)
		must(log.Close())
	}
	update, err := c.Ledger.Job(string(user), string(project), ended).Reserve("claude-opus-4-6", 1000, 1000)
	must(err)
	update(dreamcore.Spent{Tokens: dreamcore.Tokens{Input: 1000, Output: 500}}, true)
	return ended, cut
}

// Snapshot is everything of a user that a move must keep.
type Snapshot struct {
	Files    map[string]string // of the projects, with their modes
	Versions []string          // of the projects, the newest first
	Homes    map[string]string
	Session  string
	Jobs     map[string]string // logs
	States   map[string]string // of the jobs in the index
	Shot     bool
	Blocked  string
	Spent    dreamcore.Nano
}

// Snapshot returns what a user has in the cell.
func (c *Cell) Snapshot(user dreamcore.UserID, project dreamcore.ProjectID) (s Snapshot) {
	t := c.t
	t.Helper()
	s.Files, s.Homes, s.Jobs, s.States = map[string]string{}, map[string]string{}, map[string]string{}, map[string]string{}
	if p, err := c.Volumes.Find(user, project); err == nil {
		read(t, p.Path(), s.Files)
		p.Close()
	}
	if h, err := c.Volumes.FindHome(t.Context(), user, project); err == nil {
		read(t, h.Path(), s.Homes)
		s.Session = h.Session()
		h.Close()
	}
	log, err := c.History.Log(t.Context(), user, project, 100)
	if err != nil && dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
		t.Fatal(err)
	}
	for _, v := range log {
		s.Versions = append(s.Versions, v.Hash+" "+v.Message)
	}
	ids, err := c.Jobs.IDs(t.Context(), user)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		raw, err := os.ReadFile(filepath.Join(c.Dir, "jobs", id+".ndjson"))
		if err != nil {
			t.Fatal(err)
		}
		j, err := c.Jobs.Get(id)
		if err != nil {
			t.Fatal(err)
		}
		s.Jobs[id], s.States[id] = string(raw), string(j.State)
	}
	_, _, err = c.History.Shot(t.Context(), user, project, "", "phone")
	s.Shot = err == nil
	if b, blocked, err := c.Blocks.Get(user); err != nil {
		t.Fatal(err)
	} else if blocked {
		s.Blocked = b.Reason
	}
	spent, err := c.Ledger.Spending()
	if err != nil {
		t.Fatal(err)
	}
	s.Spent = spent[user]
	return s
}

func read(t testing.TB, dir string, into map[string]string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		name, _ := filepath.Rel(dir, path)
		into[name] = info.Mode().String() + " " + string(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Client is the cell as a driver sees it over HTTP. Fail, if it is set, returns an error
// of a step that is then not done.
type Client struct {
	*Cell
	Fail func(step string) error
}

func (c Client) fail(step string) error {
	if c.Fail == nil {
		return nil
	}
	return c.Fail(step)
}

// Move implements cells.Cell.
func (c Client) Move(ctx context.Context, s residence.Subject) (relocation.Status, error) {
	if err := c.fail("status"); err != nil {
		return relocation.Status{}, err
	}
	return c.Status(ctx, s)
}

// HoldMove implements cells.Cell.
func (c Client) HoldMove(ctx context.Context, s residence.Subject, o relocation.HoldOptions) (relocation.Status, error) {
	if err := c.fail("hold"); err != nil {
		return relocation.Status{}, err
	}
	return c.Hold(ctx, s, o)
}

// UserArchive implements cells.Cell.
func (c Client) UserArchive(ctx context.Context, user dreamcore.UserID) (io.ReadCloser, error) {
	if err := c.fail("archive"); err != nil {
		return nil, err
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(c.Save(ctx, user, w)) }()
	return r, nil
}

// SendUserArchive implements cells.Cell.
func (c Client) SendUserArchive(ctx context.Context, user dreamcore.UserID, from, move string, r io.Reader) (relocation.Status, error) {
	if err := c.fail("load"); err != nil {
		return relocation.Status{}, err
	}
	return c.Load(ctx, user, from, move, r)
}

// ReleaseMove implements cells.Cell.
func (c Client) ReleaseMove(ctx context.Context, s residence.Subject, to, move string) (relocation.Status, error) {
	if err := c.fail("release"); err != nil {
		return relocation.Status{}, err
	}
	return c.Release(ctx, s, to, move)
}

// AcceptMove implements cells.Cell.
func (c Client) AcceptMove(ctx context.Context, s residence.Subject, move string, away []dreamcore.UserID) (relocation.Status, error) {
	if err := c.fail("accept"); err != nil {
		return relocation.Status{}, err
	}
	return c.Accept(ctx, s, move, away)
}

// UndoMove implements cells.Cell.
func (c Client) UndoMove(ctx context.Context, s residence.Subject, move string) (relocation.Status, error) {
	if err := c.fail("undo"); err != nil {
		return relocation.Status{}, err
	}
	return c.Undo(ctx, s, move)
}

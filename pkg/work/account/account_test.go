package account

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/png"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
	"github.com/notef-neighbor/dreamcore/pkg/store/block"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/store/record"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

const (
	alice = dreamcore.UserID("a11ce000-0000-4000-8000-000000000001")
	bob   = dreamcore.UserID("b0b00000-0000-4000-8000-000000000002")
	game  = dreamcore.ProjectID("33333333-3333-4333-8333-333333333333")
	other = dreamcore.ProjectID("44444444-4444-4444-8444-444444444444")

	content = "content-of-alice-7f3a"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(dieDir); dir != "" {
		dieWhileDeleting(dir, os.Getenv(dieStep))
	}
	goleak.VerifyTestMain(m)
}

// fakeJobs erases the logs and rows of a user's jobs like job.Service, without running
// any.
type fakeJobs struct {
	logs    *journal.Store
	records *record.Store
	ended   []dreamcore.UserID
	endErr  error
}

func (f *fakeJobs) End(_ context.Context, user dreamcore.UserID, _ dreamcore.ProjectID) (int, error) {
	f.ended = append(f.ended, user)
	return 1, f.endErr
}

func (f *fakeJobs) List(filter dreamcore.JobFilter) (page dreamcore.JobPage, err error) {
	rows, _, err := f.records.List(filter, nil)
	for _, r := range rows {
		page.Jobs = append(page.Jobs, r.Job)
	}
	return page, err
}

func (f *fakeJobs) Erase(_ context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (n int, err error) {
	rows, _, err := f.records.List(dreamcore.JobFilter{User: user, Project: project, Limit: 1000}, nil)
	for _, r := range rows {
		err = errors.Join(err, f.logs.Erase(r.ID), f.records.Remove(r.ID))
	}
	return len(rows), errors.Join(err, f.records.Compact())
}

type fakeSandboxes struct{ stopped, renewed []string }

func (f *fakeSandboxes) Renew(_ context.Context, user dreamcore.UserID) error {
	f.renewed = append(f.renewed, string(user))
	return nil
}

func (f *fakeSandboxes) List() []workspace.Info {
	return []workspace.Info{{User: alice, State: workspace.StateIdle}}
}

func (f *fakeSandboxes) Stop(_ context.Context, name string) error {
	f.stopped = append(f.stopped, name)
	return &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "no sandbox"}
}

// rig is the state directory of a service.
type rig struct {
	*Service
	dir       string
	jobs      *fakeJobs
	sandboxes *fakeSandboxes
	close     func() error
}

// openRig opens a state directory; disks of that size are optional.
func openRig(dir string, diskBytes int64) (_ *rig, err error) {
	r := &rig{dir: dir, sandboxes: &fakeSandboxes{}}
	p := Parts{UsageDir: filepath.Join(dir, "usage"), AuditDir: filepath.Join(dir, "audit"), Sandboxes: r.sandboxes}
	p.Spending = func() (map[dreamcore.UserID]dreamcore.Nano, error) {
		return map[dreamcore.UserID]dreamcore.Nano{alice: 5e9}, nil
	}
	opts := volume.Options{UID: os.Getuid(), GID: os.Getgid(), DiskBytes: diskBytes}
	if p.Volumes, err = volume.Open(filepath.Join(dir, "volumes"), opts); err != nil {
		return nil, err
	}
	if _, err := p.Volumes.Create(volume.Data); err != nil {
		return nil, err
	}
	if p.History, err = history.Open(filepath.Join(dir, "history"), history.Options{}); err != nil {
		return nil, err
	}
	if p.Blocks, err = block.Open(filepath.Join(dir, "blocked")); err != nil {
		return nil, err
	}
	if p.Logs, err = journal.Open(filepath.Join(dir, "jobs"), journal.Options{}); err != nil {
		return nil, err
	}
	records, err := record.Open(filepath.Join(dir, "jobs", "index.db"), record.Options{})
	if err != nil {
		return nil, err
	}
	if p.Audit, err = audit.Open(p.AuditDir, audit.Options{Redact: func(s string) string { return s }}); err != nil {
		return nil, err
	}
	r.jobs = &fakeJobs{logs: p.Logs, records: records}
	p.Jobs = r.jobs
	r.Service = New(p)
	r.close = func() error {
		return errors.Join(r.Service.Close(), p.Audit.Close(), records.Close(), p.Logs.Close(), p.Blocks.Close(), p.Volumes.Close())
	}
	return r, nil
}

func newRig(t testing.TB, dir string, diskBytes int64) *rig {
	t.Helper()
	r, err := openRig(dir, diskBytes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// fill makes a project with a file, a version, a conversation, and a job.
func (r *rig) fill(t testing.TB, user dreamcore.UserID, project dreamcore.ProjectID, text string) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	unlock, err := r.parts.Volumes.Lock(t.Context(), user, project)
	check(err)
	defer unlock()
	p, err := r.parts.Volumes.Project(user, project)
	check(err)
	check(os.WriteFile(filepath.Join(p.Path(), "index.html"), []byte("<p>"+text), 0o644))
	hash, _, err := r.parts.History.Commit(t.Context(), user, project, p.Root(), "make "+text, time.Now())
	check(err)
	var picture bytes.Buffer // of the game, as a check takes it
	check(png.Encode(&picture, image.NewGray(image.Rect(0, 0, 4, 4))))
	check(r.parts.History.SaveShot(t.Context(), user, project, hash, "phone", picture.Bytes()))
	check(p.Close())
	h, err := r.parts.Volumes.Home(user, project)
	check(err)
	check(os.WriteFile(filepath.Join(h.Path(), "talk.jsonl"), []byte(text), 0o600))
	check(h.SetSession(uuid.NewString()))
	check(h.Close())
	r.fillJob(t, user, project, text)
}

// fillJob makes a job without anything else: it was cancelled before it ran.
func (r *rig) fillJob(t testing.TB, user dreamcore.UserID, project dreamcore.ProjectID, text string) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	id := uuid.NewString()
	log, err := r.parts.Logs.Create(id)
	check(err)
	log.SetOwner(user)
	_, err = log.Append(dreamcore.StatusEvent(text))
	check(err)
	_, err = log.Append(dreamcore.DoneEvent())
	check(err)
	check(log.Close())
	check(r.jobs.records.Put(record.Row{Job: dreamcore.Job{ID: id, User: user, Project: project, Prompt: text, State: dreamcore.JobSucceeded, Created: time.Now()}}))
}

// traces returns the files below a directory whose names or contents have a text,
// except for the audit log.
func traces(t testing.TB, dir, text string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == filepath.Join(dir, "audit") {
			return fs.SkipDir
		}
		if strings.Contains(path[len(dir):], text) {
			found = append(found, path)
		}
		if !d.Type().IsRegular() {
			return nil
		}
		raw, err := os.ReadFile(path)
		if strings.Contains(string(raw), text) {
			found = append(found, "in "+path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func (r *rig) wantNothing(t testing.TB, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if left := traces(t, r.dir, text); len(left) > 0 {
			t.Errorf("%s is left: %q", text, left)
		}
	}
}

func TestADeletedUserLeavesNothing(t *testing.T) {
	for _, disk := range []int64{0, 32 << 20} {
		t.Run(fmt.Sprint(disk), func(t *testing.T) {
			if disk > 0 {
				needDisks(t)
			}
			r := newRig(t, t.TempDir(), disk)
			r.fill(t, alice, game, content)
			r.fill(t, alice, other, content)
			r.fill(t, bob, game, "of-bob")
			if _, err := r.Block(t.Context(), alice, content); err != nil {
				t.Fatal(err)
			}
			if len(traces(t, r.dir, content)) < 4 {
				t.Fatal("there is nothing to delete")
			}
			report, err := r.DeleteUser(t.Context(), alice)
			if err != nil {
				t.Fatal(err)
			}
			if report.Projects != 2 || report.Versions != 2 || report.Jobs != 2 || report.Cancelled != 1 || !report.Unblocked || report.Bytes == 0 || len(report.Kept) != 2 {
				t.Errorf("report: %+v", report)
			}
			if len(r.sandboxes.stopped) != 2 || r.sandboxes.stopped[1] != workspace.Name(alice) {
				t.Errorf("stopped %q", r.sandboxes.stopped)
			}
			r.wantNothing(t, string(alice), content)
			if p, err := r.FindProject(t.Context(), game); err != nil || p.User != bob || p.Files != 1 {
				t.Errorf("bob's project: %+v, %v", p, err)
			}
			if _, err := r.DeleteUser(t.Context(), alice); dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
				t.Errorf("again: %v", err)
			}
			r.fill(t, alice, game, "again") // the id can be used again
		})
	}
}

func needDisks(t testing.TB) {
	t.Helper()
	_, err := os.Stat("/dev/loop-control")
	sandboxtest.Need(t, os.Geteuid() == 0 && err == nil, "root and loop devices")
	_, err = exec.LookPath("mkfs.ext4")
	sandboxtest.Need(t, err == nil, "mkfs.ext4 of e2fsprogs in PATH")
}

func TestADeletedProjectLeavesTheOthers(t *testing.T) {
	r := newRig(t, t.TempDir(), 0)
	r.fill(t, alice, game, content)
	r.fill(t, alice, other, "stays")
	r.fill(t, bob, game, "of-bob")
	if _, err := r.Owner(t.Context(), game); dreamcore.ReasonOf(err) != ReasonManyOwners {
		t.Errorf("two owners: %v", err)
	}
	report, err := r.DeleteProject(t.Context(), alice, game)
	if err != nil || report.Projects != 1 || report.Versions != 1 || report.Jobs != 1 {
		t.Errorf("report: %+v, %v", report, err)
	}
	r.wantNothing(t, content)
	list, err := r.Projects(t.Context(), alice, Page{})
	if err != nil || len(list.Projects) != 1 || list.Projects[0].ID != other || list.Projects[0].Message != "make stays" {
		t.Errorf("%+v, %v", list, err)
	}
	if owner, err := r.Owner(t.Context(), game); owner != bob || err != nil {
		t.Errorf("owner %q, %v", owner, err)
	}
	// Again after the files are gone: a sandbox that was started meanwhile has seen them.
	if want := []string{string(alice), string(alice)}; len(r.sandboxes.stopped) != 0 || !slices.Equal(r.sandboxes.renewed, want) {
		t.Errorf("stopped %q, renewed %q", r.sandboxes.stopped, r.sandboxes.renewed)
	}
}

func TestNothingOfAUserCanBeUsedDuringADeletion(t *testing.T) {
	r := newRig(t, t.TempDir(), 0)
	r.fill(t, alice, game, content)
	steps := 0
	r.reached = func(step string) {
		if step == "begin" || step == "ended" {
			return
		}
		steps++
		if err := r.Admit(alice, game); dreamcore.ReasonOf(err) != volume.ReasonErasing {
			t.Errorf("%s: admitted: %v", step, err)
		}
		if _, err := r.parts.Volumes.Find(alice, game); dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
			t.Errorf("%s: found: %v", step, err)
		}
		if _, err := r.parts.Volumes.Project(alice, game); dreamcore.CodeOf(err) != dreamcore.CodeConflict {
			t.Errorf("%s: made: %v", step, err)
		}
		if _, err := r.parts.Volumes.User(t.Context(), alice); dreamcore.CodeOf(err) != dreamcore.CodeConflict {
			t.Errorf("%s: mounted: %v", step, err)
		}
		if _, err := r.parts.Volumes.Reserve(t.Context(), alice); dreamcore.CodeOf(err) != dreamcore.CodeConflict {
			t.Errorf("%s: reserved: %v", step, err)
		}
		if _, err := r.User(t.Context(), alice); dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
			t.Errorf("%s: listed: %v", step, err)
		}
	}
	if _, err := r.DeleteUser(t.Context(), alice); err != nil || steps < 7 {
		t.Errorf("%d steps, %v", steps, err)
	}
	r.wantNothing(t, string(alice))
}

// Environment of the process that dies.
const (
	dieDir  = "DREAMCORE_TEST_DIE_DIR"
	dieStep = "DREAMCORE_TEST_DIE_STEP"
)

// dieWhileDeleting kills this process when a deletion reaches a step.
func dieWhileDeleting(dir, step string) {
	r, err := openRig(dir, 0)
	if err == nil {
		r.reached = func(reached string) {
			if reached == step {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		}
		_, err = r.DeleteUser(context.Background(), alice)
	}
	fmt.Fprintln(os.Stderr, "the step was not reached:", err)
	os.Exit(1)
}

func TestADeletionSurvivesAKillAtEachStep(t *testing.T) {
	for _, step := range []string{"begin", "end jobs", "close sandbox", "lock", "jobs", "versions", "files", "forget", "block", "end", "ended"} {
		t.Run(step, func(t *testing.T) {
			dir := t.TempDir()
			func() {
				r, err := openRig(dir, 0)
				if err != nil {
					t.Fatal(err)
				}
				r.fill(t, alice, game, content)
				r.fill(t, bob, game, "of-bob")
				if err := r.close(); err != nil {
					t.Fatal(err)
				}
			}()
			c := exec.Command(os.Args[0])
			c.Env = append(os.Environ(), dieDir+"="+dir, dieStep+"="+step)
			out, err := c.CombinedOutput()
			if status, ok := c.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
				t.Fatalf("%v\n%s", err, out)
			}
			r := newRig(t, dir, 0)
			erasing, err := r.parts.Volumes.Erasing()
			if err != nil || (len(erasing) == 1) == (step == "begin" || step == "ended") {
				t.Errorf("noted: %v, %v", erasing, err)
			}
			if err := r.Resume(t.Context()); err != nil {
				t.Fatal(err)
			}
			if step == "begin" { // nothing was promised yet
				if p, err := r.Project(t.Context(), alice, game); err != nil || p.Files != 1 {
					t.Errorf("%+v, %v", p, err)
				}
				return
			}
			r.wantNothing(t, string(alice), content)
			if p, err := r.Project(t.Context(), bob, game); err != nil || p.Files != 1 {
				t.Errorf("bob's: %+v, %v", p, err)
			}
		})
	}
}

func TestAFailedDeletionIsCompletedLater(t *testing.T) {
	r := newRig(t, t.TempDir(), 0)
	r.fill(t, alice, game, content)
	r.jobs.endErr = errors.New("a job hangs")
	if _, err := r.DeleteUser(t.Context(), alice); !errors.Is(err, r.jobs.endErr) {
		t.Errorf("%v", err)
	}
	if err := r.Resume(t.Context()); !errors.Is(err, r.jobs.endErr) {
		t.Errorf("%v", err)
	}
	r.jobs.endErr = nil
	if err := r.Resume(t.Context()); err != nil {
		t.Error(err)
	}
	r.wantNothing(t, string(alice), content)
}

func TestBlocksAreDurable(t *testing.T) {
	dir := t.TempDir()
	r, err := openRig(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	b, err := r.Block(t.Context(), alice, "spam")
	if err != nil || !b.Blocked || b.Cancelled != 1 || b.Since.IsZero() {
		t.Errorf("%+v, %v", b, err)
	}
	if err := r.close(); err != nil {
		t.Fatal(err)
	}
	r = newRig(t, dir, 0)
	if err := r.Admit(alice, game); dreamcore.CodeOf(err) != dreamcore.CodeBlocked {
		t.Errorf("blocked: %v", err)
	}
	if err := r.Admit(bob, game); err != nil {
		t.Errorf("another user: %v", err)
	}
	if u, err := r.User(t.Context(), alice); err != nil || u.Block == nil || u.Block.Reason != "spam" || u.Spent != 5e9 || u.Sandbox != workspace.StateIdle {
		t.Errorf("%+v, %v", u, err)
	}
	if b, err = r.Unblock(alice); err != nil || b.Blocked {
		t.Errorf("%+v, %v", b, err)
	}
	if err := r.Admit(alice, game); err != nil {
		t.Errorf("unblocked: %v", err)
	}
}

func TestTenThousandUsersAreListedByPage(t *testing.T) {
	r := newRig(t, t.TempDir(), 0)
	const users = 10_000
	dir := filepath.Join(r.dir, "volumes", volume.Data, "users")
	for i := range users {
		if err := os.MkdirAll(filepath.Join(dir, fmt.Sprintf("00000000-0000-4000-8000-%012d", i)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	first, err := r.Users(t.Context(), Page{})
	if err != nil || len(first.Users) != dreamcore.DefaultPage || first.Next == "" {
		t.Fatalf("%d users, next %q, %v", len(first.Users), first.Next, err)
	}
	t.Logf("the first page of %d users: %v", users, time.Since(began))
	seen := map[dreamcore.UserID]bool{}
	for page := (Page{Limit: 1 << 20}); ; {
		list, err := r.Users(t.Context(), page)
		if err != nil || len(list.Users) > dreamcore.MaxPage {
			t.Fatal(len(list.Users), err)
		}
		for _, u := range list.Users {
			seen[u.ID] = true
		}
		if page.After = list.Next; list.Next == "" {
			break
		}
	}
	if len(seen) != users {
		t.Errorf("%d users", len(seen))
	}
	if _, err := r.Users(t.Context(), Page{After: "x"}); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
		t.Errorf("a wrong cursor: %v", err)
	}
}

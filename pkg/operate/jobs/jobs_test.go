package jobs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/operate/gameview"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/store/record"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// stored are jobs that are listed in pages of two.
type stored []dreamcore.Job

func (s stored) List(_ context.Context, f dreamcore.JobFilter) (page dreamcore.JobPage, err error) {
	from := 0
	if f.Cursor != "" {
		if _, err := fmt.Sscan(f.Cursor, &from); err != nil {
			return page, err
		}
	}
	to := min(len(s), from+min(f.Limit, 2))
	page.Jobs = s[from:to]
	if to < len(s) {
		page.Next = fmt.Sprint(to)
	}
	return page, nil
}

func (s stored) Get(_ context.Context, id string) (dreamcore.Job, error) {
	for _, j := range s {
		if j.ID == id {
			return j, nil
		}
	}
	return dreamcore.Job{}, &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "Job not found"}
}

func (s stored) Events(_ context.Context, _ string, _ bool, fn func(dreamcore.Event) error) error {
	for _, e := range []dreamcore.Event{dreamcore.StatusEvent("working"), dreamcore.DoneEvent()} {
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}

func (stored) Close() error { return nil }

var now = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

func made(id, prompt string, state dreamcore.JobState) dreamcore.Job {
	return dreamcore.Job{
		ID: id, User: "a11ce000-0000-4000-8000-000000000001", Project: "b0b00000-0000-4000-8000-000000000002", Prompt: prompt, PromptBytes: len(prompt),
		State: state, Created: now.Add(-90 * time.Minute),
	}
}

var three = stored{
	made("aaaa1111-0000-4000-8000-000000000001", "a snake", dreamcore.JobQueued),
	made("aaaa2222-0000-4000-8000-000000000002", strings.Repeat("a very long prompt ", 10)+"end", dreamcore.JobRunning),
	made("bbbb1111-0000-4000-8000-000000000003", "氷の上のヘビゲームを作って", dreamcore.JobFailed),
}

func TestAJobIsFoundByTheBeginningOfItsID(t *testing.T) {
	for _, tt := range []struct {
		prefix, want string
		code         dreamcore.Code
	}{
		{"bbbb", three[2].ID, ""},
		{"AAAA1", three[0].ID, ""},
		{three[1].ID, three[1].ID, ""},
		{"aaaa", "", dreamcore.CodeInvalid},
		{"cccc", "", dreamcore.CodeNotFound},
		{"aaa", "", dreamcore.CodeInvalid},
		{"../x", "", dreamcore.CodeInvalid},
		{three[0].ID + "0", "", dreamcore.CodeInvalid},
		{"00000000-0000-4000-8000-000000000009", "", dreamcore.CodeNotFound},
	} {
		j, err := Find(t.Context(), three, tt.prefix)
		if j.ID != tt.want || err != nil && dreamcore.CodeOf(err) != tt.code || (err == nil) != (tt.code == "") {
			t.Errorf("%s: %s, %v", tt.prefix, j.ID, err)
		}
	}
}

func TestCollectReadsPagesUpToTheLimit(t *testing.T) {
	for limit, more := range map[int]bool{1: true, 2: true, 3: false, 9: false} {
		all, rest, err := Collect(t.Context(), three, dreamcore.JobFilter{}, limit)
		if err != nil || len(all) != min(limit, 3) || rest != more {
			t.Errorf("limit %d: %d jobs, more %v, %v", limit, len(all), rest, err)
		}
	}
}

// On a terminal every job is one line; in a pipe nothing is cut.
func TestTheTableFitsTheTerminal(t *testing.T) {
	for _, width := range []int{80, 100} {
		io, out, _ := term.Buffers("")
		io.OutTerminal, io.Width = true, width
		io.Stdout().Table(Table(io.Stdout(), three, now))
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) != 4 {
			t.Errorf("%d columns: %d lines\n%s", width, len(lines), out)
		}
		for _, line := range lines {
			if n := len([]rune(line)); n > width {
				t.Errorf("%d columns: a line of %d:\n%s", width, n, line)
			}
		}
	}
	io, out, _ := term.Buffers("")
	io.Stdout().Table(Table(io.Stdout(), three, now))
	for _, want := range []string{three[1].ID, string(three[1].User), "prompt end", "1h30m"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in a pipe:\n%s", want, out)
		}
	}
}

func TestEverythingAboutAJobIsShown(t *testing.T) {
	j, exit := three[2], 7
	j.Started, j.Ended, j.Attempt, j.Code, j.Cause, j.ExitCode = now.Add(-80*time.Minute), now.Add(-78*time.Minute), 2, dreamcore.FailNetwork, "no route to host", &exit
	j.Cost, j.Input, j.Output, j.Commit, j.RequestID = dreamcore.Dollars(dreamcore.NanoPerDollar/4), 1200, 34, "abc1234", "req-9"
	io, out, _ := term.Buffers("")
	if err := Show(io, j, now); err != nil {
		t.Error(err)
	}
	for _, want := range []string{
		j.ID, "failed", string(j.User), string(j.Project), "ヘビ", "NETWORK_ERROR, exit code 7", "no route to host", "2026-11-29 10:30:00 UTC (1h 30m ago)",
		"waited 10m 00s", "took 2m 00s", "$0.25", "1200 in, 34 out", "abc1234", "req-9",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing:\n%s", want, out)
		}
	}
}

func TestAReplayHasTheTimesOfTheJob(t *testing.T) {
	j := three[0]
	j.Started, j.Ended = now.Add(-time.Minute), now
	io, out, _ := term.Buffers("")
	view := gameview.New(io, dreamcore.Request{Prompt: j.Prompt})
	end, ended, err := Replay(t.Context(), view, three, j, true)
	view.End(end)
	if err != nil || !ended || !end.Done || !strings.Contains(out.String(), "1m 00s") {
		t.Errorf("%+v, %v, %v\n%s", end, ended, err, out)
	}
}

func TestAPromptForgesNoLineOfAWatch(t *testing.T) {
	io, out, _ := term.Buffers("")
	j := made(three[0].ID, "a snake\n"+three[1].ID+" succeeded\r\n\x1b[2Ax", dreamcore.JobFailed)
	if err := changed(io, map[string]dreamcore.Job{}, stored{j}); err != nil || strings.Count(out.String(), "\n") != 1 || !strings.HasPrefix(out.String(), j.ID) || strings.ContainsAny(out.String(), "\r\x1b") {
		t.Errorf("%v\n%q", err, out)
	}
}

func TestAWatchPrintsWhatHasChanged(t *testing.T) {
	io, out, _ := term.Buffers("")
	io.JSON = true
	seen := map[string]dreamcore.Job{}
	later := stored{three[0], three[1]}
	for i, want := range []int{2, 2, 3} {
		if i == 2 {
			j := three[0]
			j.State = dreamcore.JobRunning
			later = stored{j, three[1]}
		}
		if err := changed(io, seen, later); err != nil || strings.Count(out.String(), "\n") != want {
			t.Errorf("look %d: %v\n%s", i, err, out)
		}
	}
}

// Without a service, each look would read the names of all logs, of which there may be
// 100,000.
func TestAWatchReadsStoredJobsAgainOnlyAfterAChange(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "jobs")
	logs, err := journal.Open(dir, journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	log, err := logs.Create(three[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	w := watched{open: func(context.Context) (Reader, error) { return Offline(dir, "index.db"), nil }}
	defer w.close()
	look := func(want int, state dreamcore.JobState) (r Reader) {
		t.Helper()
		all, ok, err := w.look(t.Context(), dreamcore.JobFilter{}, 9)
		if len(all) != want || !ok || err != nil || all[len(all)-1].State != state {
			t.Errorf("%+v, %v, %v", all, ok, err)
		}
		return w.r
	}
	first := look(1, dreamcore.JobQueued)
	if look(1, dreamcore.JobQueued) != first {
		t.Error("the same jobs were read again")
	}
	if _, err := log.Append(dreamcore.DoneEvent()); err != nil { // a command has made this job
		t.Fatal(err)
	}
	ended := look(1, dreamcore.JobSucceeded)
	if ended == first || look(1, dreamcore.JobSucceeded) != ended {
		t.Error("a change of a log was missed, or read twice")
	}
	other, err := logs.Create(three[1].ID)
	if err != nil {
		t.Fatal(err)
	}
	look(2, dreamcore.JobSucceeded)
	if err := errors.Join(log.Close(), other.Close()); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkLookWithoutAService is a look of a watch at 100,000 stored jobs: the first
// one, and one of the others.
func BenchmarkLookWithoutAService(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "jobs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		b.Fatal(err)
	}
	index, err := record.Open(filepath.Join(dir, "index.db"), record.Options{})
	if err != nil {
		b.Fatal(err)
	}
	var rows []record.Row
	for i := range 100_000 {
		id := fmt.Sprintf("00000000-0000-4000-8000-%012d", i)
		rows = append(rows, record.Row{Job: made(id, "a game", dreamcore.JobSucceeded)})
		if err := os.WriteFile(filepath.Join(dir, id+".ndjson"), nil, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	if err := errors.Join(index.Put(rows...), index.Complete(), index.Close()); err != nil {
		b.Fatal(err)
	}
	w := watched{open: func(context.Context) (Reader, error) { return Offline(dir, "index.db"), nil }}
	defer w.close()
	look := func() {
		if all, ok, err := w.look(b.Context(), dreamcore.JobFilter{}, 50); len(all) != 50 || !ok || err != nil {
			b.Fatal(len(all), ok, err)
		}
	}
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			if err := w.close(); err != nil {
				b.Fatal(err)
			}
			look()
		}
	})
	b.Run("next", func(b *testing.B) {
		for b.Loop() {
			look()
		}
	})
}

// A watch must neither keep a service from starting nor miss that it has started.
func TestAWatchFollowsTheServiceThatStarts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "jobs")
	logs, err := journal.Open(dir, journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	index := func() *record.Store {
		t.Helper()
		s, err := record.Open(filepath.Join(dir, "index.db"), record.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if err := errors.Join(index().Close(), logs.Close()); err != nil {
		t.Fatal(err)
	}
	opened, running := 0, false
	w := watched{open: func(context.Context) (Reader, error) {
		if opened++; running {
			return three, nil
		}
		return Offline(dir, "index.db"), nil
	}}
	look := func(want int, wantOK bool) {
		t.Helper()
		if all, ok, err := w.look(t.Context(), dreamcore.JobFilter{}, 9); len(all) != want || ok != wantOK || err != nil {
			t.Errorf("%d jobs, %v, %v", len(all), ok, err)
		}
	}
	look(0, true)
	service := index() // it starts
	look(0, true)      // nothing has changed
	if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	look(0, false)
	running = true
	look(3, true)
	look(3, true)
	if opened != 4 {
		t.Errorf("opened %d times", opened)
	}
	if err := errors.Join(w.close(), service.Close()); err != nil {
		t.Error(err)
	}
	first := watched{open: func(context.Context) (Reader, error) {
		return nil, &dreamcore.Error{Code: dreamcore.CodeBusy, Message: "the service is starting or stopping"}
	}}
	if _, _, err := first.look(t.Context(), dreamcore.JobFilter{}, 9); dreamcore.CodeOf(err) != dreamcore.CodeBusy {
		t.Errorf("the first look: %v", err)
	}
}

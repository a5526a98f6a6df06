package job

import (
	"bytes"
	"context"
	"errors"
	"image"
	"image/png"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

// playing returns a function that copies the game and plays it.
func playing(t *testing.T, do func(ctx context.Context, game string) (verdict.Report, error)) func(*Parts) {
	return func(p *Parts) {
		p.Play = func(ctx context.Context, game acceptance.Source) (r verdict.Report, err error) {
			dir := must(os.OpenRoot(t.TempDir()))(t)
			defer dir.Close()
			if err := game(ctx, dir); err != nil {
				return r, err
			}
			raw, err := dir.ReadFile("index.html")
			if err != nil {
				return r, err
			}
			return do(ctx, string(raw))
		}
	}
}

func aPicture(t *testing.T) []byte {
	var b bytes.Buffer
	if err := png.Encode(&b, image.NewGray(image.Rect(0, 0, 3, 3))); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestAProjectIsCheckedOutsideOfAJob(t *testing.T) {
	r := newRig(t, options{parts: playing(t, func(context.Context, string) (verdict.Report, error) {
		report := fails("hero is not defined")
		report.Shots = []verdict.Shot{{Screen: verdict.Phone, PNG: aPicture(t)}}
		return report, nil
	})})
	if _, err := r.service.CheckGame(t.Context(), alice, project); dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
		t.Errorf("an unknown project: %v", err)
	}
	r.ends(r.run(request(alice, "x")))
	p := must(r.parts.Volumes.Find(alice, project))(t)
	defer p.Close()
	if err := p.Root().WriteFile("new.js", []byte("changed since"), 0o644); err != nil {
		t.Fatal(err)
	}
	played, err := r.service.CheckGame(t.Context(), alice, project)
	if err != nil || played.Verdict != "failed" || len(played.Failed()) != 2 {
		t.Fatalf("%+v, %v", played, err)
	}
	versions := must(r.parts.History.Log(t.Context(), alice, project, 0))(t)
	if len(versions) != 2 || versions[0].Hash != played.Commit || versions[0].Message != beforeCheck {
		t.Errorf("%+v, checked was %s", versions, played.Commit)
	}
	if raw, of, err := r.service.Shot(t.Context(), alice, project, "", "phone"); err != nil || of != played.Commit || !bytes.HasPrefix(raw, []byte("\x89PNG")) {
		t.Errorf("the picture: %v", err)
	}
}

func TestACheckWithoutVerdictSaysWhy(t *testing.T) {
	r := newRig(t, options{parts: playing(t, func(context.Context, string) (verdict.Report, error) { return verdict.Report{}, errFake })})
	r.ends(r.run(request(alice, "x")))
	played, err := r.service.CheckGame(t.Context(), alice, project)
	if err != nil || played.Verdict != "unknown" || played.Reason == "" || strings.Contains(played.Reason, errFake.Error()) {
		t.Errorf("%+v, %v", played, err)
	}
	r.playing(func(g guest) (int, error) {
		g.say(good)
		return 0, errors.Join(g.write("notes.txt", "x"), g.write("old.htm", "x"), g.write(".git2/a.html", "x"))
	})
	r.ends(r.run(request(bob, "x")))
	if played, err := r.service.CheckGame(t.Context(), bob, project); err != nil || played.Verdict != "unknown" || played.Reason != errNoPage.Error() {
		t.Errorf("%+v, %v", played, err)
	}
}

func TestChecksTakeTheTurnsOfGenerations(t *testing.T) {
	playingNow, end := make(chan struct{}, 10), make(chan struct{})
	r := newRig(t, options{
		settings: func(s *Settings) { s.Running, s.Waiting, s.PerUser = 1, 1, 1 },
		parts: playing(t, func(ctx context.Context, _ string) (verdict.Report, error) {
			playingNow <- struct{}{}
			<-end
			return plays(), nil
		}),
	})
	r.ends(r.run(request(alice, "x")))
	r.ends(r.run(request(bob, "x")))
	errs := make(chan error, 2)
	for range 2 {
		go func() { _, err := r.service.CheckGame(t.Context(), alice, project); errs <- err }()
	}
	<-playingNow
	for r.service.Load().Queued == 0 {
		time.Sleep(time.Millisecond)
	}
	if _, err := r.service.CheckGame(t.Context(), alice, project); dreamcore.CodeOf(err) != dreamcore.CodeBusy {
		t.Errorf("a third check of one user: %v", err)
	}
	if _, err := r.service.CheckGame(t.Context(), bob, project); dreamcore.CodeOf(err) != dreamcore.CodeBusy {
		t.Errorf("more checks than may wait: %v", err)
	}
	close(end)
	for range 2 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestACheckEndsWithItsClientAndWithTheService(t *testing.T) {
	playingNow := make(chan struct{}, 1)
	r := newRig(t, options{parts: playing(t, func(ctx context.Context, _ string) (verdict.Report, error) {
		playingNow <- struct{}{}
		<-ctx.Done()
		return verdict.Report{}, context.Cause(ctx)
	})})
	r.ends(r.run(request(alice, "x")))
	ctx, cancel := context.WithCancelCause(t.Context())
	errs := make(chan error, 1)
	go func() { _, err := r.service.CheckGame(ctx, alice, project); errs <- err }()
	<-playingNow
	cancel(errFake)
	if err := <-errs; !errors.Is(err, errFake) {
		t.Errorf("%v", err)
	}
	go func() { _, err := r.service.CheckGame(t.Context(), alice, project); errs <- err }()
	<-playingNow
	r.close()
	if err := <-errs; err == nil {
		t.Error("it has a verdict after the end of the service")
	}
	if _, err := r.service.CheckGame(t.Context(), alice, project); dreamcore.CodeOf(err) != dreamcore.CodeBusy {
		t.Errorf("after the end: %v", err)
	}
}

// Nothing of a game that is deleted, or of a user who is blocked, is left in a check.
func TestTheEndOfAUserOrProjectEndsItsChecks(t *testing.T) {
	const another = dreamcore.ProjectID("00000000-0000-4000-8000-000000000009")
	playingNow, left := make(chan struct{}, 1), make(chan struct{}, 1)
	r := newRig(t, options{parts: playing(t, func(ctx context.Context, _ string) (verdict.Report, error) {
		playingNow <- struct{}{}
		<-ctx.Done()
		time.Sleep(50 * time.Millisecond) // as the removal of a sandbox and of a copy
		left <- struct{}{}
		return verdict.Report{}, ctx.Err()
	})})
	r.ends(r.run(request(alice, "x")))
	for _, of := range []dreamcore.ProjectID{project, ""} {
		errs := make(chan error, 1)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		go func() { _, err := r.service.CheckGame(ctx, alice, project); errs <- err }()
		<-playingNow
		for user, of := range map[dreamcore.UserID]dreamcore.ProjectID{alice: another, bob: ""} {
			if n, err := r.service.End(t.Context(), user, of); n != 0 || err != nil {
				t.Errorf("of others: %d, %v", n, err)
			}
		}
		if len(left) != 0 {
			t.Error("the end of another project ended it")
		}
		if n, err := r.service.End(t.Context(), alice, of); n != 0 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		if len(left) != 1 {
			t.Fatal("End did not wait for the check")
		}
		<-left
		if err := <-errs; dreamcore.CodeOf(err) != dreamcore.CodeConflict {
			t.Errorf("%v", err)
		}
		cancel()
	}
}

func TestACheckNeedsSpaceLikeAJob(t *testing.T) {
	full := &dreamcore.Error{Code: dreamcore.CodeSetup, Message: "the disk is nearly full", Hint: "free space"}
	var now error
	played := false
	r := newRig(t, options{parts: func(p *Parts) {
		playing(t, func(context.Context, string) (verdict.Report, error) { played = true; return plays(), nil })(p)
		p.Ready = func() error { return now }
	}})
	r.ends(r.run(request(alice, "x")))
	now = full
	_, err := r.service.CheckGame(t.Context(), alice, project)
	if dreamcore.CodeOf(err) != dreamcore.CodeBusy || !errors.Is(err, full) || dreamcore.HintOf(err) != full.Hint || played {
		t.Errorf("%v, played %v", err, played)
	}
	now = nil
	// What the copy will take counts, too.
	p := must(r.parts.Volumes.Find(alice, project))(t)
	defer p.Close()
	var disk unix.Statfs_t
	if err := unix.Statfs(r.dir, &disk); err != nil {
		t.Fatal(err)
	}
	if free := int64(disk.Bavail) * disk.Bsize; r.parts.Volumes.CheckFreeFor(free/2) != nil || r.parts.Volumes.CheckFreeFor(2*free) == nil {
		t.Error("the size of the copy is not part of what must be free")
	}
	if _, err := r.service.CheckGame(t.Context(), alice, project); err != nil || !played {
		t.Errorf("with space again: %v", err)
	}
}

func TestACheckHasAnOverallLimit(t *testing.T) {
	remaining := make(chan time.Duration, 1)
	r := newRig(t, options{
		settings: func(s *Settings) { s.AcceptanceLimit = 20 * time.Second },
		parts: playing(t, func(ctx context.Context, _ string) (verdict.Report, error) {
			end, _ := ctx.Deadline()
			remaining <- time.Until(end)
			return plays(), nil
		}),
	})
	r.ends(r.run(request(alice, "x")))
	if _, err := r.service.CheckGame(t.Context(), alice, project); err != nil {
		t.Fatal(err)
	}
	if left := <-remaining; left <= 0 || left > playSpare+20*time.Second {
		t.Errorf("%v left", left)
	}
}

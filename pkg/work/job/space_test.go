package job

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestAJobThatOutgrowsItsProjectIsStopped(t *testing.T) {
	r := newRig(t, options{files: 20, play: func(g guest) (int, error) {
		for i := range 50 {
			if err := g.write(fmt.Sprint(i), "x"); err != nil {
				return 0, err
			}
		}
		return untilStopped(g)
	}})
	events := r.run(request(alice, "x"))
	last, _ := r.ends(events)
	if last.Type != "error" || last.Code != string(dreamcore.FailQuota) || last.Exit != nil {
		t.Errorf("%+v\n%s", last, r.log)
	}
	if n := count(events, func(e event) bool { return e.Type == "warning" && e.Message == filesFull }); n != 1 {
		t.Errorf("%d warnings", n)
	}
	if len(r.versions(alice)) != 1 {
		t.Error("the files are not saved")
	}
}

func TestFilesLeftOutOfAVersionAreReported(t *testing.T) {
	r := newRig(t, options{play: func(g guest) (int, error) {
		if err := syscall.Mkfifo(filepath.Join(g.project(), "pipe\n"+strings.Repeat("x", 200)), 0o644); err != nil {
			return 0, err
		}
		return makesGame(g)
	}})
	events := r.run(request(alice, "x"))
	if last, _ := r.ends(events); last.Type != "done" {
		t.Errorf("%+v", last)
	}
	if n := count(events, func(e event) bool {
		return e.Type == "warning" && strings.HasPrefix(e.Message, `Left out of the version: it is not a file, directory or link: 1, such as "pipe\nxxx`)
	}); n != 1 {
		t.Errorf("%d warnings: %+v", n, events)
	}
}

// A job that is cancelled while it waits for the disk is interrupted: it has not
// failed because of the disk.
func TestCancelWhileAJobWaitsForTheDisk(t *testing.T) {
	ids := make(chan string, 1)
	var r *rig
	r = newRig(t, options{parts: func(p *Parts) {
		p.Ready = func() error { // in place of a reservation that waits
			r.service.Cancel(<-ids)
			return fmt.Errorf("wait for the disk: %w", context.Canceled)
		}
	}})
	id := r.submit(request(alice, "x"))
	ids <- id
	if last, _ := r.ends(r.events(id)); last.Code != string(dreamcore.FailCLITerminated) {
		t.Errorf("%+v", last)
	}
}

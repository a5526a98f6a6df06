package daemon

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/disk"
	"github.com/notef-neighbor/dreamcore/pkg/work/project"
)

// diskInterval is how often the disk of the state directory is checked.
const diskInterval = time.Second

// readyPause is the time between two attempts to make a service ready that was
// started on a full disk.
const readyPause = 10 * time.Second

// prepare makes the machine ready. A service starts on a full disk all the
// same: it can still show games and lists.
func (s *Service) prepare(ctx context.Context, trial bool) error {
	err := s.ready(ctx, trial)
	if trial {
		return err
	}
	return s.startAnyway(err)
}

// startAnyway returns err, which kept the service from being ready, unless the disk
// is full: then the service starts without making games.
func (s *Service) startAnyway(err error) error {
	if err == nil || s.state.Volumes.CheckFree() == nil {
		return err
	}
	s.log.Error("no game can be made until there is space on the disk of the state directory", "error", err, "hint", dreamcore.HintOf(err), "reason", dreamcore.ReasonOf(err))
	s.unready.Store(&err)
	return nil
}

// ready checks that sandboxes work and, unless in a trial, cleans up what an
// earlier process left.
func (m *Machine) ready(ctx context.Context, trial bool) error {
	if err := m.checkSandboxes(ctx); err != nil || trial {
		return err
	}
	if err := m.state.Volumes.SweepDisks(ctx); err != nil {
		return err
	}
	if err := project.New(m.state.Volumes, m.history).Recover(ctx); err != nil {
		m.log.Warn("unfinished changes of an earlier process could not be repaired", "error", err)
	}
	if m.state.Config.DiskMiB > 0 {
		if err := disk.Check(ctx, m.state.Config.State); err != nil {
			return err
		}
		if err := m.state.Volumes.KeepDisksAhead(); err != nil {
			return err
		}
	}
	return nil
}

// takeUpJobs returns what takes up the jobs that an earlier process has left. It has to
// look at each of them, and to end some, so it is done while the service runs; new jobs
// wait for those that are taken up. A start that fails after it would cut their new
// attempts, and a job has few.
func (m *Machine) takeUpJobs() (run func()) {
	recover := m.Jobs.Recovery()
	return func() {
		if err := recover(); err != nil {
			m.log.Error("no game can be made yet", "error", err, "hint", dreamcore.HintOf(err), "reason", dreamcore.ReasonOf(err))
			m.unready.Store(&err) // makeReady tries it again
		}
	}
}

func (m *Machine) checkSandboxes(ctx context.Context) error {
	io, err := m.Prober.SandboxIO(ctx)
	if err == nil && !io.Match {
		err = fmt.Errorf("a sandbox answered %q to %q", io.Output, io.Input)
	}
	switch {
	case err == nil:
		return nil
	case m.root.name != "": // a sandbox has worked with it already
		return &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "the service's checks cannot run in the " + m.root.name, Err: err,
			Hint: "use one with /bin/cat and /bin/sh, such as debian:12",
		}
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeSetup, Reason: ReasonSandboxes, Message: "sandboxes do not work on this machine", Err: err,
		Hint: engineNeeds(m.state.Config.Runtime),
	}
}

// health returns the reason why no game can be made at the moment, or nil.
func (m *Machine) health() error {
	if err := m.notReady(); err != nil {
		return err
	}
	return m.state.Volumes.CheckFree()
}

// watchDisk adjusts the reserve of the disk until ctx ends, logs when the disk
// becomes full and when it has space again, and makes a service ready that was
// started on a full disk.
func (m *Machine) watchDisk(ctx context.Context) {
	tick := time.NewTicker(diskInterval)
	defer tick.Stop()
	full, adjusts := false, true
	var jobs sync.WaitGroup
	defer jobs.Wait()
	var tried time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := m.state.ballast.Adjust()
		if adjusts && err != nil {
			m.log.Warn("the reserve of the disk cannot be adjusted", "error", err)
		}
		adjusts = err == nil
		err = m.state.Volumes.CheckFree()
		if was := full; err == nil && was {
			m.log.Info("the disk has space again: games are made")
			m.reconcileNow() // the ends of jobs that had no space are written
		} else if err != nil && !was {
			m.log.Error("no game is made: the disk is full", "error", err, "hint", dreamcore.HintOf(err), "reason", dreamcore.ReasonOf(err))
		}
		full = err != nil
		if !full {
			if err := m.Jobs.Retell(); err != nil {
				m.log.Error("queue the webhooks of jobs that have ended", "error", err)
			}
		}
		if !full && m.notReady() != nil && time.Since(tried) > readyPause {
			tried = time.Now()
			if takeUp := m.makeReady(ctx); takeUp != nil {
				jobs.Go(func() {
					takeUp()
					m.reconcileNow()
				})
			}
		}
	}
}

// makeReady does what the start of the service could not do. It returns takeUpJobs, or
// nil if it fails.
func (m *Machine) makeReady(ctx context.Context) (takeUp func()) {
	if err := m.ready(ctx, false); err != nil {
		m.log.Error("no game can be made yet", "error", err, "hint", dreamcore.HintOf(err), "reason", dreamcore.ReasonOf(err))
		m.unready.Store(&err)
		return nil
	}
	takeUp = m.takeUpJobs() // first, so that no new job gets ahead
	m.unready.Store(nil)
	m.log.Info("the service is ready: games are made")
	return takeUp
}

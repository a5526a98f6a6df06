package daemon

import (
	"context"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// diskInterval is how often the disk of the state directory is checked.
const diskInterval = time.Second

// readyPause is the time between two attempts to make a service ready that was
// started on a full disk.
const readyPause = 10 * time.Second

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
		} else if err != nil && !was {
			m.log.Error("no game is made: the disk is full", "error", err, "hint", dreamcore.HintOf(err))
		}
		full = err != nil
		if !full && m.notReady() != nil && time.Since(tried) > readyPause {
			tried = time.Now()
			m.makeReady(ctx)
		}
	}
}

// makeReady does what the start of the service could not do.
func (m *Machine) makeReady(ctx context.Context) {
	if err := m.ready(ctx, false); err != nil {
		m.log.Error("no game can be made yet", "error", err, "hint", dreamcore.HintOf(err))
		m.unready.Store(&err)
		return
	}
	m.unready.Store(nil)
	m.log.Info("the service is ready: games are made")
}

package daemon

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

// watchInterval is how soon a change is noticed. Polling a few files is cheap,
// and finds every change, however an editor writes the file.
const watchInterval = 500 * time.Millisecond

// watcher applies changes of the configuration and the model script to a
// running service. Streams that are open keep the settings they began with. It
// must not run while the service is being closed.
type watcher struct {
	service *Service
	file    string // the configuration
	load    func() (config.Config, error)
	cfg     config.Config // the settings in force
}

func (w *watcher) run(ctx context.Context) {
	log := w.service.log
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	seen := w.stamp()
	began, unknown := w.load() // as written: the settings in force may differ, see OpenState
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := w.stamp()
		if now == seen {
			continue
		}
		changed := now.diff(seen)
		seen = now
		next, err := w.reload()
		if err != nil {
			log.Error("reload: the old settings stay", "changed", changed, "error", err)
			continue
		}
		log.Info("reloaded", "changed", changed)
		if names := began.NeedRestart(next); len(names) > 0 && unknown == nil {
			log.Warn("these settings have changed and need a restart of the service", "settings", names)
		}
	}
}

// reload reads the configuration again and applies what can change while the
// service runs. After an error the old settings stay in force. It returns the
// configuration as it is written.
func (w *watcher) reload() (written config.Config, err error) {
	if written, err = w.load(); err != nil {
		return written, err
	}
	s, cfg := w.service, w.cfg.TakeUp(written)
	if err := s.state.checkVariables(cfg.SandboxEnv); err != nil {
		return written, err
	}
	prices, err := usage.ParsePrices(cfg.Prices)
	if err != nil {
		return written, err
	}
	if err := s.setUpstream(cfg); err != nil {
		return written, err
	}
	w.cfg = cfg
	s.keepDays.Store(int64(cfg.JournalDays))
	s.Journal.SetMaxBytes(int64(cfg.JobsMiB) << 20)
	s.history.SetBounds(historyBounds(cfg))
	s.ledger.Apply(prices, cfg.Limits())
	s.prompts.Apply(cfg.PromptModels)
	if err := s.spares.Apply(spareLimits(cfg)); err != nil {
		return written, err
	}
	return written, s.Jobs.Apply(s.settings(cfg))
}

// stamps shows whether a watched file has changed.
type stamps struct{ config, script, skills stamp }

type stamp struct {
	files int
	bytes int64
	last  time.Time
}

func (s stamps) diff(old stamps) string {
	switch {
	case s.config != old.config:
		return "configuration"
	case s.script != old.script:
		return "model script"
	}
	return "skills"
}

func (w *watcher) stamp() stamps {
	var st stamps
	st.config.add(w.file)
	if script := w.cfg.ModelScript; script != "" && script != replay.DemoName {
		st.script.add(script)
	}
	if dir, err := w.service.state.Volumes.Path(volume.Global); err == nil {
		_ = filepath.WalkDir(filepath.Join(dir, ".claude"), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				st.skills.add(path)
			}
			return nil
		})
	}
	return st
}

func (s *stamp) add(file string) {
	fi, err := os.Stat(file)
	if err != nil {
		return
	}
	s.files++
	s.bytes += fi.Size()
	if fi.ModTime().After(s.last) {
		s.last = fi.ModTime()
	}
}

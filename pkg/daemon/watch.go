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

	polls    bool            // changes of the files are applied as they are noticed
	requests <-chan struct{} // a value asks for a reload at once; may be nil

	seen    stamps        // of the files at the last reload
	began   config.Config // as written at the start: the settings in force may differ, see OpenState
	unknown error         // of reading began
}

// begin records the files as they are at the start, to notice later changes.
func (w *watcher) begin() {
	w.seen = w.stamp()
	w.began, w.unknown = w.load()
}

func (w *watcher) run(ctx context.Context) {
	var ticks <-chan time.Time // nil: never
	if w.polls {
		tick := time.NewTicker(watchInterval)
		defer tick.Stop()
		ticks = tick.C
	}
	for {
		changed := "on request"
		select {
		case <-ctx.Done():
			return
		case <-w.requests:
			w.seen = w.stamp()
		case <-ticks:
			now := w.stamp()
			if now == w.seen {
				continue
			}
			changed = now.diff(w.seen)
			w.seen = now
		}
		next := w.apply(changed)
		if next == nil {
			continue
		}
		if names := w.began.NeedRestart(*next); len(names) > 0 && w.unknown == nil {
			w.service.log.Warn("these settings have changed and need a restart of the service", "settings", names)
		}
	}
}

// apply reloads the settings and logs the changes. It returns the
// configuration as it is written, or nil if the old settings stay.
func (w *watcher) apply(changed string) *config.Config {
	log, before := w.service.log, w.cfg
	next, err := w.reload()
	if err != nil {
		log.Error("reload: the old settings stay", "changed", changed, "error", err)
		return nil
	}
	// The names only: values may be secrets.
	if names := before.Differences(w.cfg); len(names) > 0 {
		log.Info("reloaded", "changed", changed, "settings", names)
	} else {
		log.Info("reloaded", "changed", changed)
	}
	return &next
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
	if err := s.state.checkWebhooks(cfg.Webhooks); err != nil {
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
	s.history.SetLimits(historyLimits(cfg))
	s.ledger.Apply(prices, cfg.Limits())
	s.prompts.Apply(cfg.PromptModels)
	s.spares.Apply(spareLimits(cfg))
	s.workspaces.Apply(s.workspaceSettings(cfg))
	s.Jobs.Apply(s.settings(cfg))
	if s.webhooks != nil {
		s.webhooks.Apply(cfg.Webhooks)
	}
	return written, nil
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
	if script := w.cfg.ModelScript; script != "" && !replay.IsDemo(script) {
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

package main

import (
	"context"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

// watchInterval is how soon a change is noticed. Looking at a handful of files
// is cheap, and finds changes however an editor makes them.
const watchInterval = 500 * time.Millisecond

// watch takes up changes of the configuration and the model script until the
// returned function is called, which waits for it. Streams that run go on with
// what they began with.
func (s *service) watch(a *app, log *slog.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(watchInterval)
		defer tick.Stop()
		seen := s.stamp(a)
		began, unknown := a.config() // as written: the machine may have had to change it
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			now := s.stamp(a)
			if now == seen {
				continue
			}
			changed := now.diff(seen)
			seen = now
			next, err := s.reload(a)
			if err != nil {
				log.Error("reload: the old settings stay", "changed", changed, "error", err)
				continue
			}
			log.Info("reloaded", "changed", changed)
			if names := began.NeedRestart(next); len(names) > 0 && unknown == nil {
				log.Warn("these settings have changed and need a restart of the service", "settings", names)
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// stamps tell whether what is watched has changed.
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

func (s *service) stamp(a *app) stamps {
	var st stamps
	file := a.configFlag
	if file == "" {
		file = a.env.ConfigFile
	}
	if file == "" {
		file = s.machine.path(config.FileName)
	}
	st.config.add(file)
	if script := s.machine.cfg.ModelScript; script != "" && script != replay.DemoName {
		st.script.add(script)
	}
	if dir, err := s.machine.volumes.Path(volume.Global); err == nil {
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

// reload reads the configuration again and applies what can change while the
// service runs. An error leaves everything as it was. It returns the
// configuration as it is written.
func (s *service) reload(a *app) (written config.Config, err error) {
	if written, err = a.config(); err != nil {
		return written, err
	}
	cfg := s.machine.cfg.TakeUp(written)
	if err := s.machine.checkVariables(cfg.SandboxEnv); err != nil {
		return written, err
	}
	prices, err := usage.ParsePrices(cfg.Prices)
	if err != nil {
		return written, err
	}
	if err := s.machine.setModel(cfg); err != nil {
		return written, err
	}
	s.machine.cfg = cfg
	s.keepDays.Store(int64(cfg.JournalDays))
	s.machine.journal.SetMaxBytes(int64(cfg.JobsMiB) << 20)
	s.machine.history.SetBounds(historyBounds(cfg))
	s.machine.books.Apply(prices, cfg.Limits())
	s.prompts.Apply(cfg.PromptModels)
	if err := s.machine.spares.Apply(spareLimits(cfg)); err != nil {
		return written, err
	}
	return written, s.machine.service.Apply(s.machine.settings(cfg, s.bin))
}

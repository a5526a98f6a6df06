package daemon

import (
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/engine"
	"github.com/notef-neighbor/dreamcore/pkg/store/disk"
)

// A reload changes the sandboxes of checks outside of jobs like those of jobs.
func TestChecksFollowTheSettings(t *testing.T) {
	c := config.Config{MemoryMiB: 2048, CPUs: 2, Processes: 200, AcceptanceLimit: 20 * time.Second}
	m := &Machine{Model: &Model{state: &State{Config: c}}, provider: new(engine.Provider)}
	m.settings(c)
	next := c
	next.MemoryMiB, next.CPUs, next.AcceptanceLimit = 512, 0.5, 30*time.Second
	for _, c := range []config.Config{c, next} {
		m.settings(c)
		place, settings := m.place()
		if place.Limits != limits(c) || settings.Memory != int64(c.MemoryMiB)<<20 || settings.Limit != c.AcceptanceLimit {
			t.Errorf("%d MiB: %+v, %+v", c.MemoryMiB, place.Limits, settings)
		}
	}
}

func TestTheCopyOfADirectoryLeavesSpaceFree(t *testing.T) {
	s := testState(t, func(c *config.Config) { c.MinFreeDiskMiB = 1 << 40 })
	m := &Machine{Model: &Model{state: s}, provider: new(engine.Provider), browser: "/usr/bin/chromium"}
	m.play(s.Config)
	if _, err := m.CheckDirectory(t.Context(), t.TempDir()); dreamcore.ReasonOf(err) != disk.ReasonNearlyFull {
		t.Errorf("%v", err)
	}
}

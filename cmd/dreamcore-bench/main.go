// Command dreamcore-bench measures dreamcore next to other ways to do the same
// on this machine: sandboxes next to bubblewrap, crun, containerd and gVisor
// alone, and games next to the agent without a sandbox. Everything that is
// compared runs in turn, so that a slow minute of the machine slows all of it.
//
// main.go selects the measurements, peers.go starts sandboxes of others,
// service.go runs dreamcore, games.go, load.go and growth.go
// measure it, report.go and plot.go write the figures.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/moby/sys/mountinfo"
)

// options are the sizes of the measurements.
type options struct {
	binary string // dreamcore, built
	agent  string // the agent's program; "" leaves out games
	out    string // path of the report without its suffix
	only   string
	rounds int
	pairs  int
	burst  int
	idle   int
	growth int
}

// bench is one run.
type bench struct {
	options
	dir    string // of everything that the run creates
	state  string // of the services; "" before the first one
	config string // that setup has written there
	report report
}

// measurements are the parts of a run, in order.
var measurements = []struct {
	name string
	run  func(*bench, context.Context) error
}{
	{"sandboxes", (*bench).sandboxes},
	{"games", (*bench).games},
	{"burst", (*bench).bursts},
	{"idle", (*bench).idlers},
	{"growth", (*bench).growths},
}

func main() {
	var o options
	flag.StringVar(&o.binary, "binary", "bin/dreamcore", "the `program` to measure")
	flag.StringVar(&o.agent, "agent", "", "the agent's `program`; without it no games are measured")
	flag.StringVar(&o.out, "out", "pkg/docs/bench", "`path` of the report, without .json and .svg")
	flag.StringVar(&o.only, "only", "", "comma-separated `parts`: sandboxes, games, burst, idle, growth; all by default")
	flag.IntVar(&o.rounds, "rounds", 20, "`times` that each sandbox is started")
	flag.IntVar(&o.pairs, "pairs", 7, "`pairs` of a game and the agent without a sandbox")
	flag.IntVar(&o.burst, "burst", 100, "`requests` at once")
	flag.IntVar(&o.idle, "idle", 100, "idle `users` at once")
	flag.IntVar(&o.growth, "growth", 10000, "largest `number` of projects and jobs")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	if o.rounds < 1 || o.pairs < 1 || o.burst < 1 || o.idle < 1 || o.growth < 10 || flag.NArg() > 0 {
		return errors.New("numbers must be positive, growth at least 10, and there are no arguments")
	}
	for _, path := range []*string{&o.binary, &o.agent} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
		if _, err := os.Stat(*path); err != nil {
			return err
		}
	}
	dir, err := os.MkdirTemp("", "dreamcore-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeAll(dir)) }()
	if err := os.Chmod(dir, 0o755); err != nil { // the agent runs as another user
		return err
	}
	b := &bench{options: o, dir: dir, report: newReport()}
	parts := strings.FieldsFunc(o.only, func(r rune) bool { return r == ',' })
	for _, m := range measurements {
		if i := slices.Index(parts, m.name); i >= 0 {
			parts = slices.Delete(parts, i, i+1)
		} else if o.only != "" {
			continue
		}
		fmt.Fprintf(os.Stderr, "%s (load %s)\n", m.name, load())
		if err = m.run(b, ctx); err != nil {
			err = fmt.Errorf("%s: %w", m.name, err)
			b.skip(m.name, "it failed, and what came after it was not measured") // the rest is worth keeping
			break
		}
	}
	if err == nil && len(parts) > 0 {
		return fmt.Errorf("unknown parts: %s", strings.Join(parts, ", "))
	}
	return errors.Join(err, b.report.write(os.Stdout, o.out))
}

// removeAll removes a directory after all mounts in it: users' disks stay mounted
// for a while, and gVisor leaves the network namespace of sandboxes without a network.
func removeAll(dir string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(mounts) {
		if err := syscall.Unmount(m.Mountpoint, 0); err != nil {
			return fmt.Errorf("unmount %s: %w", m.Mountpoint, err)
		}
	}
	return os.RemoveAll(dir)
}

// skip notes what this machine cannot measure.
func (b *bench) skip(name string, reason any) {
	b.report.Skipped = append(b.report.Skipped, fmt.Sprintf("%s: %v", name, reason))
}

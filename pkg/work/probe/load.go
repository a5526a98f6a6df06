package probe

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// bombTime is how long the fork bomb runs after it has reached its limit, and
// bombLimit how long it may take to reach it.
const (
	bombTime  = time.Second
	bombLimit = 25 * time.Second
)

// writeLimit is how long it may take to fill a slow disk, and fillLimit how long
// each later attempt may take, which finds it full.
const (
	writeLimit = 25 * time.Second
	fillLimit  = 8 * time.Second
)

// firstWrite is an output that closes written at the first write.
type firstWrite struct {
	output
	once    sync.Once
	written chan struct{}
}

func (w *firstWrite) Write(b []byte) (int, error) {
	w.once.Do(func() { close(w.written) })
	return w.output.Write(b)
}

// forkBomb lets processes fork without end, and checks whether their sandbox can be
// used again.
func forkBomb(ctx context.Context, n *notes, guests []*guest) error {
	g := guests[0]
	began := time.Now()
	out := &firstWrite{output: output{limit: maxOutput, cut: true}, written: make(chan struct{})}
	// Every process has two children and waits for them. A shell that cannot
	// fork prints an error and ends, and another one takes its place.
	bomb, err := g.Start(ctx, g.command(out, "/bin/sh", "-c", "b() { b & b & wait; }; b"))
	if err != nil {
		return err
	}
	select {
	case <-out.written:
	case <-time.After(bombLimit):
	case <-ctx.Done():
		return ended(ctx, nil)
	}
	time.Sleep(bombTime)
	if err := n.try(ctx, guests[1], "the sandbox of another user meanwhile", "echo works"); err != nil {
		return err
	}
	end, ending, afterwards := time.Now(), "ended", "the same sandbox afterwards"
	if err := g.EndAll(ctx); err != nil {
		// As in the pool: a sandbox that cannot be cleaned is not used again.
		ending, afterwards = "replaced: "+err.Error(), "a sandbox in its place"
		if err := g.Workspace.Close(ctx); err != nil {
			return failed("the sandbox could not be removed", err)
		}
		if err := g.open(ctx); err != nil {
			return failed("the sandbox could not be replaced", err)
		}
	}
	n.see(end, "ending every process", ending)
	_, _ = bomb.Wait() // it was killed; its output is complete now
	n.see(began, "processes without an end", out.text())
	return n.try(ctx, g, afterwards, `echo "works, $(ls -d /proc/[0-9]* | wc -l) processes"`)
}

// diskFill writes more than a user may, and checks the effect on another user and
// on the machine.
func diskFill(ctx context.Context, n *notes, guests []*guest) error {
	limit := guests[0].p.cfg.Deep.Volumes.DiskBytes
	if limit == 0 {
		n.see(time.Now(), "bound", "none")
		return nil
	}
	n.see(time.Now(), "bound", strconv.FormatInt(min(limit, fillBytes), 10))
	before, err := free(n.dir)
	if err != nil {
		return err
	}
	for _, try := range []struct {
		tried, script string
		limit         time.Duration
	}{
		{"writing twice the bound", fmt.Sprintf("head -c %d /dev/zero >fill; true", 2*fillBytes), writeLimit},
		{"writing on in the home", fmt.Sprintf("head -c %d /dev/zero >$HOME/fill; true", 2*fillBytes), fillLimit},
		{"bytes written", `cat fill $HOME/fill | wc -c`, fillLimit},
		{"file names without content", `i=0; while [ $i -lt 200000 ] && : >n$i; do i=$((i+1)); done 2>&1; echo "$i files"`, fillLimit},
	} {
		began := time.Now()
		limited, cancel := context.WithTimeout(ctx, try.limit)
		err := n.try(limited, guests[0], try.tried, try.script)
		stopped := limited.Err() != nil && ctx.Err() == nil
		cancel()
		if err != nil && !stopped {
			return err
		}
		if err != nil {
			n.see(began, try.tried, fmt.Sprintf("stopped after %v", try.limit))
		}
	}
	began := time.Now()
	if err := n.try(ctx, guests[1], "another user writes meanwhile", "echo works >own.txt && cat own.txt"); err != nil {
		return err
	}
	after, err := free(n.dir)
	if err != nil {
		return err
	}
	n.see(began, "bytes less on the machine's disk", strconv.FormatInt(max(before-after, 0), 10))
	return nil
}

// free returns the free space of the disk that dir is on, in bytes.
func free(dir string) (int64, error) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return 0, errors.Join(errors.New("read the free space of the disk"), err)
	}
	return int64(fs.Bavail) * fs.Bsize, nil
}

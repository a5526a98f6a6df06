// Package browser checks in a sandbox whether a game plays: it drives a headless
// browser that opens the game on two screens.
//
// process.go starts and ends the browser and pipe.go speaks to it. tab.go prepares
// a page, events.go records what it does (evidence.go), frames.go what it shows,
// and state.go what it listens for, which instrument.js collects. play.go plays
// with input.go while watch.go follows the heartbeat and the memory. judge.go and
// fits.go turn all that into a report.
package browser

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

const (
	maxRequest = 64 << 10 // bytes of a request
	maxHosts   = 64
	startTime  = 60 * time.Second // for the browser to start
)

// Main starts the browser at path, or the first that is found if path is "",
// writes that it is ready, and answers each request of in with one line of out
// until in or ctx ends. Then everything it started has ended.
func Main(ctx context.Context, path string, in io.Reader, out io.Writer) error {
	d := &driver{path: path}
	if d.path == "" {
		p, err := Find()
		if err != nil {
			return errors.Join(err, write(out, verdict.Line{Error: err.Error()}))
		}
		d.path = p
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer d.stop()
	if err := d.open(ctx); err != nil {
		return errors.Join(err, write(out, verdict.Line{Error: clean(err.Error(), verdict.MaxMessage)}))
	}
	if err := write(out, verdict.Line{Ready: clean(d.ready.process.product, 100)}); err != nil {
		return err
	}
	lines := make(chan []byte)
	go func() {
		defer close(lines)
		defer cancel() // the report of a check is not needed any more
		r := bufio.NewScanner(in)
		r.Buffer(make([]byte, 4096), maxRequest)
		for r.Scan() {
			select {
			case lines <- bytes.Clone(r.Bytes()):
			case <-ctx.Done():
				return
			}
		}
	}()
	for line := range lines {
		if err := write(out, d.answer(ctx, line)); err != nil {
			return err
		}
		if err := d.renew(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
	return nil
}

// driver has a browser that is ready for a check.
type driver struct {
	path  string
	ready *ready
	clean bool // the browser may be used again
}

// open starts a browser and prepares its pages.
func (d *driver) open(ctx context.Context) error {
	p, err := start(ctx, d.path)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	r, err := prepare(limited, p)
	if err != nil {
		p.stop()
		return err
	}
	d.ready, d.clean = r, true
	return nil
}

// renew prepares the next check: fresh pages, or a fresh browser if the last page
// may have left something in it.
func (d *driver) renew(ctx context.Context) error {
	if d.clean && d.ready != nil {
		p := d.ready.process
		d.ready.close()
		limited, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		r, err := prepare(limited, p)
		if err == nil {
			d.ready = r
			return nil
		}
	}
	d.stop()
	return d.open(ctx)
}

func (d *driver) stop() {
	if d.ready != nil {
		d.ready.process.stop()
		for _, t := range d.ready.tabs {
			t.stop()
			t.wait.Wait()
		}
	}
	d.ready = nil
}

// answer runs a check.
func (d *driver) answer(ctx context.Context, line []byte) verdict.Line {
	var q verdict.Request
	if err := json.Unmarshal(line, &q); err != nil {
		return verdict.Line{Error: "invalid request: " + clean(err.Error(), 200)}
	}
	if q.Port < 1 || q.Port > 65535 {
		return verdict.Line{Error: fmt.Sprintf("invalid request: port %d", q.Port)}
	}
	if len(q.Hosts) > maxHosts {
		return verdict.Line{Error: "invalid request: too many hosts"}
	}
	if d.ready.process.ended() { // since it was prepared
		d.stop()
		if err := d.open(ctx); err != nil {
			return verdict.Line{Error: clean(err.Error(), verdict.MaxMessage)}
		}
	}
	report, ok := d.ready.check(ctx, q)
	d.clean = ok
	return verdict.Line{Report: report}
}

func write(out io.Writer, l verdict.Line) error {
	raw, err := json.Marshal(l)
	if err != nil {
		return err
	}
	_, err = out.Write(append(raw, '\n'))
	return err
}

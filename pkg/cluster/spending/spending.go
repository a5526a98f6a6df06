// Package spending lets the cells of a cluster count what all of them have spent, for
// the limits of all users together. Each cell writes its sums into a Lease of its own
// and reads those of the others.
package spending

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"sync/atomic"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/cluster/kube"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
)

// The objects of a namespace: one of each cell, whose name follows the prefix.
const (
	prefix     = "dreamcore-spent-"
	label      = "app.kubernetes.io/component"
	labelValue = "dreamcore-spending"
	annotation = "dreamcore-spent"
)

const (
	// shortest is the pause between two exchanges of a small cluster. Each cell reads
	// the leases of all, so the pause grows with the cells.
	shortest = 10 * time.Second
	perCell  = 50 * time.Millisecond
	// goneAfter is how old a lease is whose cell is not counted any more. What it has
	// spent counts on.
	goneAfter = time.Hour
	// maxNote bounds the annotation of a lease.
	maxNote = 1 << 10
)

// Ledger is where spending is counted; usage.Ledger implements it.
type Ledger interface {
	Share() (usage.Share, error)
	SetOthers(cells int, theirs usage.Share)
}

// Exchange exchanges sums for one cell.
type Exchange struct {
	Client *kube.Client
	Cell   string // its name, which no other cell of the namespace has
	Ledger Ledger
	Logger *slog.Logger

	pause   func(others int) time.Duration // nil: pause
	version string                         // of the cell's lease; "" if it is not known
	written map[string]string              // its annotations
	renewed time.Time
	last    atomic.Int64 // see Last; in nanoseconds since 1970
}

// Last returns when an exchange last succeeded; zero for never. It may be called at any
// time.
func (e *Exchange) Last() time.Time {
	if n := e.last.Load(); n != 0 {
		return time.Unix(0, n)
	}
	return time.Time{}
}

// note is the annotation of a lease: usage.Share in nano dollars.
type note struct {
	Day      string         `json:"day"`
	DayCost  dreamcore.Nano `json:"day_nano_usd"`
	Month    dreamcore.Nano `json:"month_nano_usd"`
	Reserved dreamcore.Nano `json:"reserved_nano_usd"`
}

// Run exchanges sums until ctx ends.
func (e *Exchange) Run(ctx context.Context) {
	failed, wait := false, e.pause
	if wait == nil {
		wait = pause
	}
	for {
		cells, err := e.once(ctx, time.Now())
		if ctx.Err() != nil {
			return
		}
		switch {
		case err != nil && failed:
			e.Logger.Debug("spending can still not be exchanged with other cells", "error", err)
		case err != nil:
			e.Logger.Warn("spending cannot be exchanged with other cells: after a minute this cell spends only its even part of what was left of budget_day_usd and budget_month_usd", "error", err)
		case failed:
			e.Logger.Info("spending is exchanged with other cells again", "cells", cells+1)
		}
		failed = err != nil
		select {
		case <-time.After(wait(cells)):
		case <-ctx.Done():
			return
		}
	}
}

// pause returns how long to wait between two exchanges.
func pause(others int) time.Duration { return max(shortest, time.Duration(others)*perCell) }

// once writes the sums of the cell and reads those of the others. It returns how many
// others there are.
func (e *Exchange) once(ctx context.Context, now time.Time) (cells int, err error) {
	own, err := e.Ledger.Share()
	if err != nil {
		return 0, err
	}
	if err := e.write(ctx, own, now); err != nil {
		return 0, err
	}
	all, err := e.Client.Leases(ctx, label, labelValue)
	if err != nil {
		return 0, err
	}
	theirs := usage.Share{Day: own.Day}
	for _, l := range all {
		if l.Holder == e.Cell {
			continue
		}
		s, err := parse(l.Annotations[annotation])
		if err != nil {
			return 0, fmt.Errorf("read the lease %s: %w", l.Name, err) // money that is not counted would be spent twice
		}
		theirs = theirs.Plus(s)
		if now.Sub(l.Renewed) < goneAfter {
			cells++
		}
	}
	e.Ledger.SetOthers(cells, theirs)
	e.last.Store(now.UnixNano())
	return cells, nil
}

// renewAfter is the age of a lease that is renewed although nothing was spent.
const renewAfter = goneAfter / 4

// write writes the sums of the cell if they have changed.
func (e *Exchange) write(ctx context.Context, own usage.Share, now time.Time) error {
	raw, err := json.Marshal(note{own.Day, own.DayCost, own.MonthCost, own.Reserved})
	if err != nil {
		return err
	}
	l := kube.Lease{
		Name: prefix + e.Cell, Version: e.version, Holder: e.Cell, Renewed: now,
		Labels: map[string]string{label: labelValue}, Annotations: map[string]string{annotation: string(raw)},
	}
	if e.version != "" && maps.Equal(l.Annotations, e.written) && now.Sub(e.renewed) < renewAfter {
		return nil
	}
	if e.version == "" {
		before, err := e.Client.Lease(ctx, l.Name)
		if err != nil && dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
			return err
		}
		l.Version = before.Version
	}
	e.version = "" // unless it succeeds
	l, err = e.Client.PutLease(ctx, l)
	if err != nil {
		return err
	}
	e.version, e.written, e.renewed = l.Version, l.Annotations, now
	return nil
}

// parse reads the annotation of a lease.
func parse(text string) (usage.Share, error) {
	if len(text) > maxNote {
		return usage.Share{}, fmt.Errorf("the annotation %s has more than %d bytes", annotation, maxNote)
	}
	var n note
	if err := json.Unmarshal([]byte(text), &n); err != nil {
		return usage.Share{}, fmt.Errorf("the annotation %s: %w", annotation, err)
	}
	if _, err := time.Parse(time.DateOnly, n.Day); err != nil || n.DayCost < 0 || n.Month < 0 || n.Reserved < 0 {
		return usage.Share{}, fmt.Errorf("the annotation %s has no day or a negative sum", annotation)
	}
	return usage.Share{Day: n.Day, DayCost: n.DayCost, MonthCost: n.Month, Reserved: n.Reserved}, nil
}

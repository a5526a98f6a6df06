package cells

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/cluster/slots"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/operate/commandline"
	"github.com/notef-neighbor/dreamcore/pkg/store/residence"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// Host is the command line that the commands belong to.
type Host struct {
	IO      *term.IO
	Command func(path string, run func(ctx context.Context, args []string) error) *cobra.Command
	Group   func(path string, subcommands ...*cobra.Command) *cobra.Command
	// Flags adds the flags that say where the cluster is, of which Settings returns the
	// result.
	Flags   func(c *cobra.Command) (settings func() (Settings, error))
	Confirm func(ctx context.Context, yes bool, question, declined string) (bool, error)
	YesFlag func(c *cobra.Command, yes *bool)
}

// Commands returns dreamcore cells.
func (h Host) Commands() *cobra.Command {
	return h.Group("cells", h.list(), h.init(), h.move(), h.undo(), h.drain(), h.rebalance(), h.scale(), h.add())
}

// command returns a command that works on the cluster.
func (h Host) command(path string, run func(ctx context.Context, c *Cluster, args []string) error) *cobra.Command {
	var settings func() (Settings, error)
	c := h.Command("cells "+path, func(ctx context.Context, args []string) error {
		s, err := settings()
		if err != nil {
			return err
		}
		cluster, err := Open(s)
		if err != nil {
			return err
		}
		defer cluster.Close()
		return run(ctx, cluster, args)
	})
	settings = h.Flags(c)
	return c
}

// moving has the flags of commands that move users.
type moving struct {
	host   Host
	wait   time.Duration
	settle time.Duration
	cut    bool
	yes    bool
	dry    bool
}

func (m *moving) add(c *cobra.Command) {
	c.Flags().DurationVar(&m.wait, "wait", DefaultWait, "how long to wait for jobs that run; then the move is undone")
	c.Flags().BoolVar(&m.cut, "cut", false, "cut jobs that run; they go on in the other cell with another attempt")
	c.Flags().DurationVar(&m.settle, "settle", DefaultSettle, "how long routers may take to see the map")
}

// addPlan adds the flags of commands that show their plan first.
func (m *moving) addPlan(c *cobra.Command) {
	m.add(c)
	c.Flags().BoolVar(&m.dry, "dry-run", false, "only show the plan")
	m.host.YesFlag(c, &m.yes)
}

// mover returns a Mover that shows its progress. stop must be called.
func (m *moving) mover(c *Cluster, text string) (v *Mover, line *line) {
	line = newLine(m.host.IO, text)
	return &Mover{Maps: c, Cell: c.Cell, Wait: m.wait, Cut: m.cut, Settle: m.settle, Progress: line.show}, line
}

func (h Host) list() *cobra.Command {
	return h.command("list", func(ctx context.Context, c *Cluster, _ []string) error {
		o, err := c.overview(ctx)
		if err != nil {
			return err
		}
		return o.show(h.IO)
	})
}

func (h Host) init() *cobra.Command {
	return h.command("init", func(ctx context.Context, c *Cluster, args []string) error {
		names := args
		if len(names) == 0 {
			all, err := c.Addresses(ctx)
			if err != nil {
				return err
			}
			names = byOrdinal(all)
		}
		m, err := slots.Even(names)
		if err != nil {
			return err
		}
		if m, err = m.Edit(func(*slots.Draft) error { return nil }); err != nil { // generation 1
			return err
		}
		if err := c.Init(ctx, m); err != nil {
			return err
		}
		return done(h.IO, map[string]any{"cells": m.Cells(), "generation": m.Generation()}, fmt.Sprintf("the map has %d cells", len(names)), strings.Join(names, ", "))
	})
}

// byOrdinal returns the names of cells in their order, cell-2 before cell-10.
func byOrdinal(addresses map[string]string) (names []string) {
	for name := range addresses {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		setA, x, okA := ordinal(a)
		setB, y, okB := ordinal(b)
		if okA && okB && setA == setB {
			return x - y
		}
		return strings.Compare(a, b)
	})
	return names
}

func (h Host) move() *cobra.Command {
	m := moving{host: h}
	var to, slot string
	var cmd *cobra.Command
	cmd = h.command("move", func(ctx context.Context, c *Cluster, args []string) error {
		subject, err := subjectOfWords(args, slot)
		if err == nil && to == "" {
			err = errors.New("name the cell with --to CELL")
		}
		if err != nil {
			return commandline.Misuse(cmd, err)
		}
		v, line := m.mover(c, "Moving "+subject.String()+" to "+to)
		r, err := v.Move(ctx, subject, to)
		line.stop()
		if err != nil {
			return err
		}
		return showResult(h.IO, r)
	})
	m.add(cmd)
	cmd.Flags().StringVar(&to, "to", "", "the cell")
	cmd.Flags().StringVar(&slot, "slot", "", "a slot with all of its users instead of one user: 0 to 1023")
	return cmd
}

// subjectOfWords returns the user in args or the slot.
func subjectOfWords(args []string, slot string) (residence.Subject, error) {
	switch {
	case len(args) == 1 && slot == "":
		return residence.ParseSubject(args[0])
	case len(args) == 0 && slot != "":
		return residence.ParseSubject("slot-" + slot)
	}
	return residence.Subject{}, errors.New("name one user, or a slot with --slot N")
}

func (h Host) undo() *cobra.Command {
	return h.command("undo", func(ctx context.Context, c *Cluster, args []string) error {
		subject, err := residence.ParseSubject(args[0])
		if err != nil {
			return err
		}
		v := &Mover{Maps: c, Cell: c.Cell}
		if err := v.Undo(ctx, subject); err != nil {
			return err
		}
		return done(h.IO, map[string]string{"subject": subject.String()}, "the move of "+subject.String()+" was undone")
	})
}

func (h Host) drain() *cobra.Command {
	m := moving{host: h}
	var undo bool
	cmd := h.command("drain", func(ctx context.Context, c *Cluster, args []string) error {
		cell := args[0]
		if undo {
			if err := (&Mover{Maps: c}).Undrain(ctx, cell); err != nil {
				return err
			}
			return done(h.IO, map[string]any{"cell": cell, "draining": false}, cell+" can get users again", "spread them with: dreamcore cells rebalance")
		}
		at, _, err := c.Load(ctx)
		if err != nil {
			return err
		}
		if !at.Has(cell) {
			return unknown(at, cell)
		}
		return m.carryOut(ctx, c, at.Away(cell), "Emptying "+cell, func(v *Mover) ([]slots.Step, error) { return v.Drain(ctx, cell) })
	})
	m.addPlan(cmd)
	cmd.Flags().BoolVar(&undo, "undo", false, "let a cell that was emptied get users again")
	return cmd
}

func (h Host) rebalance() *cobra.Command {
	m := moving{host: h}
	cmd := h.command("rebalance", func(ctx context.Context, c *Cluster, _ []string) error {
		at, _, err := c.Load(ctx)
		if err != nil {
			return err
		}
		plan := at.Plan()
		return m.carryOut(ctx, c, plan, "Rebalancing", func(*Mover) ([]slots.Step, error) { return plan, nil })
	})
	m.addPlan(cmd)
	return cmd
}

// carryOut shows a plan, asks, and carries out what begin returns.
func (m *moving) carryOut(ctx context.Context, c *Cluster, plan []slots.Step, text string, begin func(*Mover) ([]slots.Step, error)) error {
	io := m.host.IO
	if m.dry {
		return showPlan(io, plan)
	}
	if len(plan) > 0 {
		if !io.JSON {
			if err := showPlan(io, plan); err != nil {
				return err
			}
		}
		ok, err := m.host.Confirm(ctx, m.yes, fmt.Sprintf("Make these %d moves?", len(plan)), "nothing was moved")
		if err != nil || !ok {
			return err
		}
	}
	v, line := m.mover(c, text)
	defer line.stop()
	plan, err := begin(v)
	if err != nil {
		return err
	}
	results := []Result{}
	line.plan(len(plan))
	err = v.Run(ctx, plan, func(r Result) {
		results = append(results, r)
		line.ended()
	})
	line.stop()
	if err != nil {
		return errors.Join(err, partly(len(results), len(plan)))
	}
	return showResults(io, results)
}

// partly says how much of a plan was carried out.
func partly(ended, all int) error {
	return &dreamcore.Error{
		Code: dreamcore.CodeInternal, Message: fmt.Sprintf("%d of %d moves were made", ended, all),
		Hint: "repeat the command for the others",
	}
}

func (h Host) scale() *cobra.Command {
	m := moving{host: h}
	cmd := h.command("scale", func(ctx context.Context, c *Cluster, args []string) error {
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: fmt.Sprintf("%.40q is not a number of cells", args[0])}
		}
		at, _, err := c.Load(ctx)
		if err != nil {
			return err
		}
		add, drop, err := scale(at, n)
		switch {
		case err != nil:
			return err
		case len(drop) > 0 && len(add) > 0:
			return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: fmt.Sprintf("the map has %s, but not %s", strings.Join(drop, ", "), strings.Join(add, ", ")), Hint: "scale to the number of the pods first, then down"}
		case len(drop) > 0:
			return m.scaleDown(ctx, c, at, n, drop)
		}
		return m.scaleUp(ctx, c, at, add)
	})
	m.addPlan(cmd)
	return cmd
}

func (m *moving) scaleDown(ctx context.Context, c *Cluster, at *slots.Map, n int, drop []string) error {
	err := m.carryOut(ctx, c, at.Away(drop...), fmt.Sprintf("Emptying %d cells", len(drop)), func(v *Mover) ([]slots.Step, error) { return v.Drain(ctx, drop...) })
	if err != nil || m.dry {
		return err
	}
	now, _, err := c.Load(ctx)
	if err != nil {
		return err
	}
	if len(now.Away(drop...)) > 0 {
		return nil // the operator has declined
	}
	if _, err := (&Mover{Maps: c}).Remove(ctx, drop...); err != nil {
		return err
	}
	if !m.host.IO.JSON {
		m.host.IO.Stdout().Success(strings.Join(drop, ", ")+" have no users any more", fmt.Sprintf("the StatefulSet can have %d replicas now; its volumes keep the old copies for a day", n))
	}
	return nil
}

func (m *moving) scaleUp(ctx context.Context, c *Cluster, at *slots.Map, add []string) error {
	next, err := at.Edit(func(d *slots.Draft) error {
		d.Cells = append(d.Cells, add...)
		return nil
	})
	if err != nil {
		return err
	}
	for _, cell := range add {
		if err := c.serves(ctx, cell); err != nil {
			return fmt.Errorf("the cell %s does not serve; start its pod first: %w", cell, err)
		}
	}
	return m.carryOut(ctx, c, next.Plan(), fmt.Sprintf("Adding %d cells", len(add)), func(v *Mover) ([]slots.Step, error) {
		now, err := v.Add(ctx, add...)
		if err != nil {
			return nil, err
		}
		return now.Plan(), nil
	})
}

func (h Host) add() *cobra.Command {
	return h.command("add", func(ctx context.Context, c *Cluster, args []string) error {
		for _, cell := range args {
			if err := c.serves(ctx, cell); err != nil {
				return fmt.Errorf("the cell %s does not serve: %w", cell, err)
			}
		}
		m, err := (&Mover{Maps: c}).Add(ctx, args...)
		if err != nil {
			return err
		}
		return done(h.IO, map[string]any{"cells": m.Cells()}, "the map has "+strings.Join(args, ", "), "they get users with: dreamcore cells rebalance")
	})
}

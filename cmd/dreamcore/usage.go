package main

import (
	"context"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/operate/commandline"
	"github.com/notef-neighbor/dreamcore/pkg/operate/show"
	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
)

// recordFilter selects stored records by time and user.
type recordFilter struct{ since, user string }

func (o *recordFilter) add(c *cobra.Command, otherwise string) {
	c.Flags().StringVar(&o.since, "since", "", "only since a date like 2026-11-01, a time, or a time ago, like 24h"+otherwise)
	c.Flags().StringVar(&o.user, "user", "", "only of this user, a UUID")
}

// parse returns the first time, and the id of the user or "".
func (o recordFilter) parse(now, otherwise time.Time) (since time.Time, user dreamcore.UserID, err error) {
	if since, err = commandline.Since(o.since, now, otherwise); err == nil && o.user != "" {
		user, err = dreamcore.ParseUserID(o.user)
	}
	return since, user, err
}

type usageOptions struct {
	recordFilter
	by  string
	csv bool
}

func newUsageCmd(a *app) *cobra.Command {
	var o usageOptions
	c := a.command("usage", func(context.Context, []string) error { return runUsage(a, o, time.Now()) })
	c.Flags().StringVar(&o.by, "by", "day", "group by: "+strings.Join(usage.Groups(), ", "))
	o.add(c, " (default: this month)")
	c.Flags().BoolVar(&o.csv, "csv", false, "print CSV")
	return c
}

func runUsage(a *app, o usageOptions, now time.Time) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	u := now.UTC()
	since, user, err := o.parse(now, time.Date(u.Year(), u.Month(), 1, 0, 0, 0, 0, time.UTC))
	if err != nil {
		return err
	}
	report, err := usage.NewReport(o.by)
	if err != nil {
		return err
	}
	if err := usage.Read(filepath.Join(cfg.State, daemon.UsageDir), since, func(r usage.Record) {
		if user == "" || string(user) == r.User {
			report.Add(r)
		}
	}); err != nil {
		return err
	}
	if o.csv {
		return report.WriteCSV(a.io.Out, o.by)
	}
	return show.Usage(a.io, o.by, since, report)
}

type auditOptions struct {
	recordFilter
	job    string
	follow bool
	tail   int
}

func newAuditCmd(a *app) *cobra.Command {
	var o auditOptions
	c := a.command("audit", func(ctx context.Context, _ []string) error { return runAudit(ctx, a, o, time.Now()) })
	c.Flags().BoolVarP(&o.follow, "follow", "f", false, "keep printing new records")
	c.Flags().IntVar(&o.tail, "tail", -1, "only the last N records, and with --follow the new ones")
	o.add(c, "")
	c.Flags().StringVar(&o.job, "job", "", "only of this job")
	return c
}

func runAudit(ctx context.Context, a *app, o auditOptions, now time.Time) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	since, user, err := o.parse(now, time.Time{})
	if err != nil {
		return err
	}
	filter, dir := audit.Filter{Job: o.job, Since: since, User: string(user)}, filepath.Join(cfg.State, daemon.AuditDir)
	skip, err := o.skipped(ctx, dir, filter)
	if err != nil {
		return err
	}
	err = audit.Read(ctx, dir, filter, o.follow, func(e audit.Entry, raw []byte) error {
		if skip--; skip >= 0 {
			return nil
		}
		return show.Audited(a.io, e, raw)
	})
	if err == nil && ctx.Err() != nil && !o.follow {
		return context.Cause(ctx)
	}
	return err
}

// skipped returns how many records come before those that --tail selects.
func (o auditOptions) skipped(ctx context.Context, dir string, f audit.Filter) (n int, err error) {
	if o.tail < 0 {
		return 0, nil
	}
	err = audit.Read(ctx, dir, f, false, func(audit.Entry, []byte) error {
		n++
		return nil
	})
	return max(n-o.tail, 0), err
}

package main

import (
	"context"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

type auditOptions struct {
	since, user, job string
	follow           bool
}

func newAuditCmd(a *app) *cobra.Command {
	var o auditOptions
	c := &cobra.Command{
		Use: "audit", Short: "Show the audit log: model calls, refusals, sandboxes, commands",
		Long: "Prints the audit log of this state directory, oldest record first. With --json each\n" +
			"record is printed as it is stored.",
		Example: "  dreamcore audit --since 1h\n  dreamcore audit --follow --user UUID --json",
		Args:    usageArgs(cobra.NoArgs),
		RunE:    func(c *cobra.Command, _ []string) error { return runAudit(c.Context(), a, o, time.Now()) },
	}
	f := c.Flags()
	f.BoolVarP(&o.follow, "follow", "f", false, "keep printing new records")
	f.StringVar(&o.since, "since", "", "only since a date like 2026-11-01, a time, or a time ago, like 24h")
	f.StringVar(&o.user, "user", "", "only of this user, a UUID")
	f.StringVar(&o.job, "job", "", "only of this job")
	return c
}

func runAudit(ctx context.Context, a *app, o auditOptions, now time.Time) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	since, err := parseSince(o.since, now, time.Time{})
	if err != nil {
		return err
	}
	if o.user, err = userFlag(o.user); err != nil {
		return err
	}
	filter := audit.Filter{Since: since, User: o.user, Job: o.job}
	p := a.io.Stdout()
	err = audit.Read(ctx, filepath.Join(cfg.State, daemon.AuditDir), filter, o.follow, func(e audit.Entry, raw []byte) error {
		if a.io.JSON {
			return a.io.WriteLine(raw)
		}
		p.Println(auditLine(p, e))
		return nil
	})
	if err == nil && ctx.Err() != nil && !o.follow {
		return context.Cause(ctx)
	}
	return err
}

// auditLine formats a record for people. Its texts are untrusted.
func auditLine(p *term.Printer, e audit.Entry) string {
	tone := term.Muted
	switch e.Verdict {
	case audit.Refused:
		tone = term.Bad
	case audit.Failed:
		tone = term.Caution
	}
	words := []string{e.Time.UTC().Format("2006-01-02 15:04:05.000"), p.Style(tone, term.Pad(term.Clean(string(e.Verdict)), 7)), term.Pad(term.Clean(e.Event), 13)}
	add := func(name, value string) {
		if value != "" && value != "0" {
			words = append(words, name+"="+term.Clean(value))
		}
	}
	add("user", e.User)
	add("project", e.Project)
	add("job", e.Job)
	add("sandbox", e.Sandbox)
	add("upstream", e.Upstream)
	add("model", e.Model)
	add("request", strings.TrimSpace(e.Method+" "+e.Target))
	add("status", strconv.Itoa(e.Status))
	add("out", strconv.FormatInt(e.BytesOut, 10))
	add("in", strconv.FormatInt(e.BytesIn, 10))
	add("tokens", strconv.FormatInt(e.Tokens.Total(), 10))
	if e.Cost > 0 {
		add("usd", e.Cost.String())
	}
	add("reason", e.Reason)
	add("suppressed", strconv.FormatInt(e.Suppressed, 10))
	return strings.Join(words, " ")
}

package main

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/operate/gameview"
	"github.com/notef-neighbor/dreamcore/pkg/operate/jobs"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// withJobs calls do with the jobs of the selected service or, if none runs on the
// state directory, with those that are stored there.
func (a *app) withJobs(ctx context.Context, o endpointOptions, do func(r jobs.Reader) error) error {
	r, err := a.openJobs(ctx, o)
	if err != nil {
		return err
	}
	return errors.Join(do(r), r.Close())
}

func (a *app) openJobs(ctx context.Context, o endpointOptions) (jobs.Reader, error) {
	s, err := a.jobService(o)
	if err != nil || o.endpoint(a) != "" {
		return s, err
	}
	cfg, err := a.config()
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return jobs.OrOffline(ctx, s, filepath.Join(cfg.State, daemon.JobsDir), daemon.IndexFile)
}

// jobService returns the selected service. The caller must close it.
func (a *app) jobService(o endpointOptions) (jobs.Source, error) {
	if o.endpoint(a) != "" {
		c, err := o.client(a, 0)
		if err != nil {
			return nil, err
		}
		return jobs.Remote(c), nil
	}
	cfg, err := a.config()
	if err != nil {
		return nil, err
	}
	return jobs.Local(filepath.Join(cfg.State, daemon.RunDir)), nil
}

// withJob calls do with a service and the job whose id begins with prefix.
func (a *app) withJob(ctx context.Context, o endpointOptions, prefix string, do func(s jobs.Source, j dreamcore.Job) error) error {
	s, err := a.jobService(o)
	if err != nil {
		return err
	}
	return jobs.WithJob(ctx, s, prefix, do)
}

// readJob calls do with the job whose id begins with prefix.
func (a *app) readJob(ctx context.Context, o endpointOptions, prefix string, do func(r jobs.Reader, j dreamcore.Job) error) error {
	r, err := a.openJobs(ctx, o)
	if err != nil {
		return err
	}
	return jobs.WithJob(ctx, r, prefix, do)
}

type jobsOptions struct {
	endpoint endpointOptions
	recordFilter
	project, state string
	limit          int
	watch          bool
}

func newJobsCmd(a *app) *cobra.Command {
	var o jobsOptions
	c := a.command("jobs", func(ctx context.Context, _ []string) error { return runJobs(ctx, a, o, time.Now()) })
	o.endpoint.add(c)
	o.add(c, "")
	f := c.Flags()
	f.StringVar(&o.project, "project", "", "only of this project, a UUID")
	f.StringVar(&o.state, "in", "", "only in this state: queued, running, succeeded, failed or cancelled")
	f.IntVar(&o.limit, "limit", dreamcore.DefaultPage, "how many jobs")
	f.BoolVar(&o.watch, "watch", false, "keep the list current until Ctrl-C")
	c.AddCommand(newJobsShowCmd(a), newJobsLogsCmd(a), newJobsCancelCmd(a), newJobsRetryCmd(a))
	return c
}

func (o jobsOptions) filter(now time.Time) (f dreamcore.JobFilter, err error) {
	if o.limit < 1 {
		return f, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "--limit must be at least 1"}
	}
	if f.Since, f.User, err = o.parse(now, time.Time{}); err != nil {
		return f, err
	}
	if o.project != "" {
		if f.Project, err = dreamcore.ParseProjectID(o.project); err != nil {
			return f, err
		}
	}
	if o.state != "" {
		f.State, err = dreamcore.ParseJobState(o.state)
	}
	return f, err
}

func runJobs(ctx context.Context, a *app, o jobsOptions, now time.Time) error {
	f, err := o.filter(now)
	if err != nil {
		return err
	}
	if o.watch {
		return jobs.Watch(ctx, a.io, func(ctx context.Context) (jobs.Reader, error) { return a.openJobs(ctx, o.endpoint) }, f, o.limit)
	}
	return a.withJobs(ctx, o.endpoint, func(r jobs.Reader) error {
		all, more, err := jobs.Collect(ctx, r, f, o.limit)
		if err != nil {
			return err
		}
		jobs.NoteOffline(a.io, r, all...)
		return jobs.List(a.io, all, more, o.limit, now)
	})
}

// jobCommand returns a command whose argument is a job.
func (a *app) jobCommand(path string, run func(ctx context.Context, o endpointOptions, id string) error) *cobra.Command {
	var endpoint endpointOptions
	c := a.command(path, func(ctx context.Context, args []string) error { return run(ctx, endpoint, args[0]) })
	endpoint.add(c)
	c.ValidArgsFunction = a.completeJobs(&endpoint)
	return c
}

func newJobsShowCmd(a *app) *cobra.Command {
	var picture pictureOptions
	c := a.jobCommand("jobs show", func(ctx context.Context, o endpointOptions, id string) error {
		if err := picture.Check(); err != nil {
			return err
		}
		return a.readJob(ctx, o, id, func(r jobs.Reader, j dreamcore.Job) error {
			jobs.NoteOffline(a.io, r, j)
			err := jobs.Show(a.io, j, time.Now())
			if err == nil {
				picture.fetch(ctx, a, o, j.User, j.Project, j.Commit)
			}
			return err
		})
	})
	picture.add(c)
	return c
}

// newJobView returns a view of a job that was submitted before.
func newJobView(a *app, j dreamcore.Job) *gameview.View {
	return gameview.New(a.io, dreamcore.Request{UserID: string(j.User), ProjectID: string(j.Project), Prompt: j.Prompt})
}

func newJobsLogsCmd(a *app) *cobra.Command {
	var follow bool
	c := a.jobCommand("jobs logs", func(ctx context.Context, o endpointOptions, id string) error {
		return a.readJob(ctx, o, id, func(r jobs.Reader, j dreamcore.Job) error {
			view := newJobView(a, j)
			defer view.Stop()
			out, ended, err := jobs.Replay(ctx, view, r, j, follow)
			if ended {
				view.End(out)
			}
			return err
		})
	})
	c.Flags().BoolVarP(&follow, "follow", "f", false, "continue to the end of the job")
	return c
}

func newJobsCancelCmd(a *app) *cobra.Command {
	return a.jobCommand("jobs cancel", func(ctx context.Context, o endpointOptions, id string) error {
		return a.withJob(ctx, o, id, func(s jobs.Source, j dreamcore.Job) error {
			was := j.State
			j, err := jobs.Cancel(ctx, s, j.ID)
			if err != nil {
				return err
			}
			return a.show(j, func(p *term.Printer) {
				if was.Final() {
					p.Info("job "+j.ID+" had already ended", string(j.State))
				} else {
					p.Success("job "+j.ID+" has ended", string(j.State))
				}
			})
		})
	})
}

func newJobsRetryCmd(a *app) *cobra.Command {
	return a.jobCommand("jobs retry", func(ctx context.Context, o endpointOptions, id string) error {
		return a.withJob(ctx, o, id, func(s jobs.Source, j dreamcore.Job) error {
			id, err := s.Retry(ctx, j.ID)
			if err != nil {
				return err
			}
			object := map[string]any{"job_id": id, "user_id": j.User, "project_id": j.Project, "retry_of": j.ID}
			return a.show(object, func(p *term.Printer) {
				p.Success("job " + id + " has the same request")
				p.Hint("run: dreamcore jobs logs --follow " + id)
			})
		})
	})
}

// completed is how many jobs the shell offers.
const completed = 50

// completeJobs returns the ids of the last jobs to the shell.
func (a *app) completeJobs(o *endpointOptions) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, _ string) (words []cobra.Completion, _ cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var err error
		if !a.elsewhere(c) {
			err = a.hasState(c)
		}
		if err == nil {
			err = a.withJobs(c.Context(), *o, func(r jobs.Reader) error {
				all, _, err := jobs.Collect(c.Context(), r, dreamcore.JobFilter{}, completed)
				for _, j := range all {
					words = append(words, cobra.CompletionWithDesc(j.ID, jobs.State(j)+" "+term.Truncate(term.Clean(j.Prompt), 40)))
				}
				return err
			})
		}
		if err != nil {
			cobra.CompDebugln(err.Error(), false)
		}
		return words, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	}
}

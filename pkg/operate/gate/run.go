package gate

import (
	"context"
	"errors"
	"math"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

const (
	// DefaultTimeout of one gate: a backend on Modal may start two cold sandboxes.
	DefaultTimeout = time.Minute
	// maxDetail bounds a detail, in columns.
	maxDetail = 300
)

// Config selects what to check. OnStart and OnResult may be nil; they are called
// from the goroutine of Run.
type Config struct {
	Client         *client.Client
	Gates          []Gate
	Timeout        time.Duration // of each gate; 0 for DefaultTimeout
	AllowNonGVisor bool          // without gVisor, isolation is Relaxed instead of Fail
	AllowUnlimited bool          // without a limit on users' files, disk-fill is Relaxed instead of Fail
	OnStart        func(Gate)
	OnResult       func(Result)
}

// Run runs the gates one after the other and returns when the last one has
// ended, after Timeout times their number at most. The remaining gates are
// skipped when ctx ends, and if the gate health cannot reach the server.
func Run(ctx context.Context, c Config) Report {
	if c.Timeout <= 0 {
		c.Timeout = DefaultTimeout
	}
	report := Report{Endpoint: c.Client.Endpoint().String(), Passed: len(c.Gates) > 0, Gates: []Result{}}
	skip := ""
	for _, g := range c.Gates {
		if ctx.Err() != nil {
			skip = "interrupted"
		}
		r := Result{Number: g.Number, Name: g.Name, Status: Skipped, Detail: skip}
		if skip == "" {
			if c.OnStart != nil {
				c.OnStart(g)
			}
			r = c.run(ctx, g)
		}
		if g.Number == 0 && r.Status == Fail && dreamcore.CodeOf(r.err) == dreamcore.CodeUnreachable {
			skip = "the server cannot be reached"
		}
		report.Passed = report.Passed && r.Status.OK()
		report.Gates = append(report.Gates, r)
		if c.OnResult != nil {
			c.OnResult(r)
		}
	}
	return report
}

// NotStarted returns the report of gates that could not be tried because of err.
// As with an unreachable server, the first gate has failed and the others are
// skipped. The report quotes err, which therefore must not contain a secret.
func NotStarted(endpoint string, gates []Gate, err error) Report {
	report := Report{Endpoint: endpoint, Gates: []Result{}}
	for i, g := range gates {
		r := Result{Number: g.Number, Name: g.Name, Status: Skipped, Detail: "the check could not start"}
		if i == 0 {
			r.Status, r.Detail, r.err = Fail, short("the check could not start: "+err.Error()), err
		}
		report.Gates = append(report.Gates, r)
	}
	return report
}

func (c Config) run(parent context.Context, g Gate) Result {
	ctx, cancel := context.WithTimeout(parent, c.Timeout)
	defer cancel()
	start := time.Now()
	v := g.check(ctx, c)
	took := time.Since(start)
	switch {
	case v.status.OK():
	case parent.Err() != nil:
		v.status, v.detail = Skipped, "interrupted"
	case ctx.Err() != nil, took >= c.Timeout: // the client has a limit too, which may be met first
		v.detail = "not finished within " + term.Duration(c.Timeout) + v.until
	}
	if secret := c.Client.Secret(); secret != "" {
		// A report may be published, and the server may have echoed the secret.
		v.detail = strings.ReplaceAll(v.detail, secret, "[secret]")
	}
	return Result{
		Number:  g.Number,
		Name:    g.Name,
		Status:  v.status,
		Detail:  short(v.detail),
		Seconds: math.Round(took.Seconds()*1000) / 1000,
		err:     v.err,

		Evidence: v.evidence,
	}
}

// short returns text, which may quote the server, as one line of bounded length.
func short(text string) string {
	return term.Truncate(strings.Join(strings.Fields(term.Clean(text)), " "), maxDetail)
}

func passed(detail string) verdict { return verdict{status: Pass, detail: detail} }

func failed(detail string) verdict {
	return verdict{status: Fail, detail: detail, err: errors.New(detail)}
}

func failedBy(err error) verdict {
	return verdict{status: Fail, detail: err.Error(), err: err}
}

// failedFor returns a failure with a code and a reason.
func failedFor(code dreamcore.Code, reason dreamcore.Reason, detail string) verdict {
	return verdict{status: Fail, detail: detail, err: &dreamcore.Error{Code: code, Reason: reason, Message: detail}}
}

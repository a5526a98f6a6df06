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
	// DefaultTimeout of one gate: the old backend may start two cold sandboxes.
	DefaultTimeout = time.Minute
	// maxDetail bounds a detail, in columns.
	maxDetail = 300
)

// Config says what to check. OnStart and OnResult may be nil; they are called
// from Run's own goroutine, one after the other.
type Config struct {
	Client         *client.Client
	Gates          []Gate
	Timeout        time.Duration // of each gate; 0 is DefaultTimeout
	AllowNonGVisor bool          // isolation passes, relaxed, without gVisor
	AllowUnlimited bool          // disk-fill passes, relaxed, where users have no bound
	OnStart        func(Gate)
	OnResult       func(Result)
}

// Run runs the gates one after the other and returns when the last one has
// ended, after Timeout times their number at most. When ctx ends, the rest is
// skipped. So it is when the gate health finds nobody there.
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

// NotStarted is the report of gates that could not be tried, because of err: as
// with a server that is not there, the first has failed and the rest is skipped.
// err is shown as it is, so it must name no secret.
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

// run runs one gate within its time.
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
	case ctx.Err() != nil:
		v.detail = "not finished within " + term.Duration(c.Timeout) + v.until
	}
	if secret := c.Client.Secret(); secret != "" {
		// A report may be published; a server could have echoed the secret.
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

// short makes one bounded line of text that may quote the server.
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

// refused is the failure of a check that the server itself reports.
func refused(reason string) verdict {
	return failed("the server reports: " + reason)
}

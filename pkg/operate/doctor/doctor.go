// Package doctor looks at a machine and says what stands in the way of making
// games on it, each finding with what mends it. The checks do what they ask
// about: a sandbox is started, the agent makes a tool call, a port is opened.
package doctor

import (
	"context"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Status of a finding.
type Status string

// The statuses. Warn does not keep the service from working.
const (
	OK      Status = "ok"
	Warn    Status = "warn"
	Fail    Status = "fail"
	Skipped Status = "skipped" // what it needs has failed
)

// Finding is what one check found.
type Finding struct {
	Name    string  `json:"name"`
	Status  Status  `json:"status"`
	Detail  string  `json:"detail"`        // one line
	Fix     string  `json:"fix,omitempty"` // what to do, where something is wrong
	Seconds float64 `json:"seconds"`
}

// Report is all findings. Healthy is false when one of them is Fail.
type Report struct {
	Healthy  bool      `json:"healthy"`
	Findings []Finding `json:"findings"`
}

// Check is one thing to look at.
type Check struct {
	Name  string
	Needs []string // names of checks that must not have failed
	// Run returns what it saw in one line. A dreamcore.Error tells the fix by
	// its hint; a Concern is a warning.
	Run func(ctx context.Context) (detail string, err error)
}

// Concern is an error of a check that is a warning only.
type Concern struct {
	Message string
	Fix     string
}

func (c *Concern) Error() string { return c.Message }

// checkLimit bounds one check. The agent's first start reads 380 MB.
const checkLimit = 2 * time.Minute

// Run runs the checks in their order. A check that hangs is given up after two
// minutes. tell, which may be nil, gets each finding as it is made.
func Run(ctx context.Context, checks []Check, begin func(name string), tell func(Finding)) Report {
	r := Report{Healthy: true}
	failed := map[string]bool{}
	for _, c := range checks {
		f := Finding{Name: c.Name, Status: Skipped}
		if need := firstFailed(failed, c.Needs); need != "" {
			f.Detail = "not looked at, because of: " + need
			failed[c.Name] = true
		} else {
			if begin != nil {
				begin(c.Name)
			}
			f = look(ctx, c)
			failed[c.Name] = f.Status == Fail
		}
		r.Healthy = r.Healthy && f.Status != Fail
		r.Findings = append(r.Findings, f)
		if tell != nil {
			tell(f)
		}
	}
	return r
}

func firstFailed(failed map[string]bool, needs []string) string {
	for _, n := range needs {
		if failed[n] {
			return n
		}
	}
	return ""
}

func look(ctx context.Context, c Check) Finding {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	began := time.Now()
	detail, err := c.Run(ctx)
	f := Finding{Name: c.Name, Status: OK, Detail: detail, Seconds: time.Since(began).Round(time.Millisecond).Seconds()}
	switch e := err.(type) {
	case nil:
	case *Concern:
		f.Status, f.Detail, f.Fix = Warn, e.Message, e.Fix
	default:
		f.Status, f.Detail, f.Fix = Fail, err.Error(), dreamcore.HintOf(err)
	}
	return f
}

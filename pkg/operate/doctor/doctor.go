// Package doctor checks whether games can be made on a machine. Each finding
// names the fix for a fault. The checks try what they report: they start a
// sandbox, let the agent make a tool call, open a port.
//
// doctor.go runs checks in order, machine.go has the checks that need nothing
// but the machine, service.go those of the state directory and its sandboxes.
package doctor

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Status is the result of a check.
type Status string

// The statuses. With Warn the service still works.
const (
	OK      Status = "ok"
	Warn    Status = "warn"
	Fail    Status = "fail"
	Skipped Status = "skipped" // a check that it needs has failed
)

// Finding is the result of one check.
type Finding struct {
	Name    string  `json:"name"`
	Status  Status  `json:"status"`
	Detail  string  `json:"detail"`        // one line
	Fix     string  `json:"fix,omitempty"` // what to do, unless Status is OK
	Seconds float64 `json:"seconds"`
}

// Report has all findings. Healthy is false if one of them is Fail.
type Report struct {
	Healthy  bool      `json:"healthy"`
	Findings []Finding `json:"findings"`
}

// Check is one check.
type Check struct {
	Name  string
	Needs []string // names of earlier checks that must not have failed
	// Run returns what it found in one line. An error is a failure, and a
	// *Concern is a warning; the fix is the hint of its dreamcore.Error.
	Run func(ctx context.Context) (detail string, err error)
}

// Concern is an error of a check that is only a warning.
type Concern struct{ Err error }

func (c *Concern) Error() string { return c.Err.Error() }
func (c *Concern) Unwrap() error { return c.Err }

func concern(reason dreamcore.Reason, message, hint string) error {
	return &Concern{&dreamcore.Error{Code: dreamcore.CodeSetup, Reason: reason, Message: message, Hint: hint}}
}

func fault(reason dreamcore.Reason, message, hint string, err error) error {
	return &dreamcore.Error{Code: dreamcore.CodeSetup, Reason: reason, Message: message, Hint: hint, Err: err}
}

// Reasons of errors and warnings.
const (
	ReasonAgent   dreamcore.Reason = "doctor.agent"    // the agent does not work
	ReasonListen  dreamcore.Reason = "doctor.listen"   // the address cannot be served
	ReasonNoKey   dreamcore.Reason = "doctor.no_key"   // of the model API
	ReasonNotRoot dreamcore.Reason = "doctor.not_root" // limits of sandboxes need root
	ReasonPrompts dreamcore.Reason = "doctor.prompts"  // a prompt file cannot be used
	ReasonState   dreamcore.Reason = "doctor.state"    // the disk of the state directory
)

// checkLimit bounds one check. The agent's first start reads 380 MB.
const checkLimit = 2 * time.Minute

// Hooks are called by Run.
type Hooks struct {
	Begin  func(name string)      // before a check; may be nil
	Finish func(Finding)          // after a check, or instead of a skipped one; may be nil
	Hint   func(err error) string // returns the fix for an error
}

// Run runs the checks in their order, each for at most two minutes.
func Run(ctx context.Context, checks []Check, h Hooks) Report {
	r := Report{Healthy: true}
	failed := map[string]bool{}
	for _, c := range checks {
		f := Finding{Name: c.Name, Status: Skipped}
		if i := slices.IndexFunc(c.Needs, func(n string) bool { return failed[n] }); i >= 0 {
			f.Detail = "not checked, because of: " + c.Needs[i]
			failed[c.Name] = true
		} else {
			if h.Begin != nil {
				h.Begin(c.Name)
			}
			f = perform(ctx, c, h.Hint)
			failed[c.Name] = f.Status == Fail
		}
		r.Healthy = r.Healthy && f.Status != Fail
		r.Findings = append(r.Findings, f)
		if h.Finish != nil {
			h.Finish(f)
		}
	}
	return r
}

func perform(ctx context.Context, c Check, hint func(error) string) Finding {
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	began := time.Now()
	detail, err := c.Run(ctx)
	f := Finding{Name: c.Name, Status: OK, Detail: detail, Seconds: time.Since(began).Round(time.Millisecond).Seconds()}
	if err == nil {
		return f
	}
	f.Status, f.Detail, f.Fix = Fail, err.Error(), hint(err)
	if _, ok := errors.AsType[*Concern](err); ok {
		f.Status = Warn
	}
	return f
}

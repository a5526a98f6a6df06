// Package gate checks that a server keeps the essential promises of the HTTP
// contract: input reaches a sandbox, the sandbox runs under gVisor, streams are
// live, volumes keep written files, and every call needs the secret.
//
// A gate relies on evidence only: it compares the texts itself, measures when
// chunks arrive, and does not accept "success":true as proof. Whether or not the
// server answers, a gate ends with a status and one line of detail within its
// time limit.
//
// gate.go has the list of gates, checks.go, streaming.go and deep.go their
// checks, run.go runs them, report.go and view.go show the results.
package gate

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Status is the result of a gate.
type Status string

// The statuses. Relaxed is a pass that the operator has allowed explicitly.
// Skipped means that the gate was not tried; it is not a pass.
const (
	Pass    Status = "pass"
	Fail    Status = "fail"
	Relaxed Status = "relaxed"
	Skipped Status = "skipped"
)

// OK reports whether s counts as passed.
func (s Status) OK() bool { return s == Pass || s == Relaxed }

// Gate is one check. All and Select return them.
type Gate struct {
	Number int
	Name   string
	Passes string // condition for a pass
	Deep   bool   // the server attacks itself; selected only explicitly
	check  func(context.Context, Config) verdict
}

// verdict is the result of a check. detail is one line of clean text.
type verdict struct {
	status Status
	detail string
	err    error  // the cause of a failure, for its code, reason and hint; may be nil
	until  string // the progress of a check that timed out

	evidence []client.Evidence
}

// All returns every gate in the order in which they run, the deep ones last.
func All() []Gate {
	return append([]Gate{
		{0, "health", "the server answers and is healthy", false, checkHealth},
		{1, "sandbox-io", "the output equals the input", false, checkSandboxIO},
		{2, "isolation", "gVisor is seen inside the sandbox", false, checkIsolation},
		{3, "streaming", "5 or more chunks arrive, 0.5 to 2 s apart", false, checkStreaming},
		{4, "volume", "one sandbox reads what another one wrote", false, checkVolume},
		{5, "auth", "401 without the right secret, 200 with it", false, checkAuth},
	}, deepGates()...)
}

// Describe lists the gates, either the deep ones or the others, one line each.
func Describe(deep bool) string {
	var b strings.Builder
	for _, g := range All() {
		if g.Deep == deep {
			fmt.Fprintf(&b, "  %-2d %-11s %s\n", g.Number, g.Name, g.Passes)
		}
	}
	return b.String()
}

// oldNames maps the names of gates in scripts for Modal to ours, if they differ.
var oldNames = map[string]string{"gvisor": "isolation", "stream": "streaming"}

// canonical returns the name of a gate for name, which may be in any case, have
// underscores or dashes, and may be the endpoint of the check.
func canonical(name string) string {
	name = strings.ReplaceAll(strings.ToLower(name), "_", "-")
	name = strings.TrimPrefix(name, "test-")
	if renamed, ok := oldNames[name]; ok {
		return renamed
	}
	return name
}

// Select returns the gates that names lists by name or number, in the order of
// All. With all it returns every gate, the deep ones only with deep. An empty
// selection and an unknown name are Errors with CodeInvalid that list the gates.
func Select(names []string, all, deep bool) ([]Gate, error) {
	gates := All()
	if all && len(names) == 0 {
		return slices.DeleteFunc(gates, func(g Gate) bool { return g.Deep && !deep }), nil
	}
	if all {
		return nil, invalid("select gates by name or all of them, not both")
	}
	if len(names) == 0 {
		return nil, invalid("no gate is selected")
	}
	for _, name := range names {
		if !slices.ContainsFunc(gates, func(g Gate) bool { return g.called(name) }) {
			return nil, invalid("there is no gate " + strconv.Quote(short(name)))
		}
	}
	return slices.DeleteFunc(gates, func(g Gate) bool { return !slices.ContainsFunc(names, g.called) }), nil
}

// called reports whether name selects the gate.
func (g Gate) called(name string) bool {
	return g.Name == canonical(name) || strconv.Itoa(g.Number) == name
}

func invalid(message string) error {
	var list []string
	for _, g := range All() {
		list = append(list, strconv.Itoa(g.Number)+" "+g.Name)
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeInvalid, Reason: ReasonSelection, Message: message,
		Hint: "gates by number or name: " + strings.Join(list, ", "),
	}
}

// Reasons of errors.
const (
	ReasonNoDeepChecks dreamcore.Reason = "gate.no_deep_checks" // the server does not offer them
	ReasonNoDiskBound  dreamcore.Reason = "gate.no_disk_bound"  // users' files are unbounded
	ReasonNoGVisor     dreamcore.Reason = "gate.no_gvisor"      // sandboxes do not run under gVisor
	ReasonSecret       dreamcore.Reason = "gate.secret"         // the secret is missing or wrong
	ReasonSelection    dreamcore.Reason = "gate.selection"      // of gates
)

// Package gate checks that a server keeps the HTTP contract where it counts:
// input reaches a sandbox, the sandbox is gVisor's, streams are live, volumes
// keep what is written, and nobody gets in without the secret.
//
// A gate believes evidence only: it compares the texts itself and measures
// when chunks arrive, and never takes "success":true for a proof. Whatever the
// server answers, or does not, a gate ends with a status and one line of
// detail, within its time limit.
package gate

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Status is how a gate ended.
type Status string

// The statuses. Relaxed is a pass that the operator has allowed in words;
// Skipped means that the gate was not tried, and is no pass.
const (
	Pass    Status = "pass"
	Fail    Status = "fail"
	Relaxed Status = "relaxed"
	Skipped Status = "skipped"
)

// OK tells whether s counts as passed.
func (s Status) OK() bool { return s == Pass || s == Relaxed }

// Gate is one check. All and Select make them.
type Gate struct {
	Number int
	Name   string
	Passes string // when it passes, in words
	Deep   bool   // asks the server for evidence; only with --deep, or by name
	check  func(context.Context, Config) verdict
}

// verdict is what a check found. detail is one line of clean text.
type verdict struct {
	status Status
	detail string
	err    error  // the cause of a failure, for its hint and code; may be nil
	until  string // how far it came, for a check that time has ended

	evidence []Evidence
}

// All returns every gate in the order in which they run, the deep ones last.
func All() []Gate {
	return append([]Gate{
		{0, "health", "the server answers and is healthy", false, checkHealth},
		{1, "sandbox-io", "output equals the input that was sent", false, checkSandboxIO},
		{2, "isolation", "gVisor is seen inside the sandbox", false, checkIsolation},
		{3, "streaming", "5 or more chunks arrive, 0.5 to 2 s apart", false, checkStreaming},
		{4, "volume", "what one sandbox wrote, another one reads", false, checkVolume},
		{5, "auth", "401 without the right secret, 200 with it", false, checkAuth},
	}, deepGates()...)
}

// oldNames are the words for gates that scripts of the old backend use, beside
// those that are the same today.
var oldNames = map[string]string{"gvisor": "isolation", "stream": "streaming"}

// today returns today's word for a gate: names are written in any case, with
// underscores or dashes, and as the endpoint of the check.
func today(name string) string {
	name = strings.ReplaceAll(strings.ToLower(name), "_", "-")
	name = strings.TrimPrefix(name, "test-")
	if renamed, ok := oldNames[name]; ok {
		return renamed
	}
	return name
}

// Select returns the gates that names choose, each by its name (today's or the
// old backend's) or its number, in the order of All, or every gate, of the deep
// ones only with deep. Nothing chosen and an unknown name are Errors with
// CodeInvalid that list the gates.
func Select(names []string, all, deep bool) ([]Gate, error) {
	gates := All()
	if all && len(names) == 0 {
		return slices.DeleteFunc(gates, func(g Gate) bool { return g.Deep && !deep }), nil
	}
	if all {
		return nil, invalid("name gates or use --all, not both")
	}
	if len(names) == 0 {
		return nil, invalid("no gate is named")
	}
	chosen := make([]bool, len(gates))
	for _, name := range names {
		wanted := today(name)
		i := slices.IndexFunc(gates, func(g Gate) bool { return g.Name == wanted || strconv.Itoa(g.Number) == name })
		if i < 0 {
			return nil, invalid("there is no gate " + strconv.Quote(short(name)))
		}
		chosen[i] = true
	}
	var picked []Gate
	for i, g := range gates {
		if chosen[i] {
			picked = append(picked, g)
		}
	}
	return picked, nil
}

func invalid(message string) error {
	var list []string
	for _, g := range All() {
		list = append(list, strconv.Itoa(g.Number)+" "+g.Name)
	}
	return &dreamcore.Error{
		Code:    dreamcore.CodeInvalid,
		Message: message,
		Hint:    "gates by number or name: " + strings.Join(list, ", ") + "; all of them: dreamcore gate --all --deep",
	}
}

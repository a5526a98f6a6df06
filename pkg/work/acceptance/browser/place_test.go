package browser

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

// TestAnAddressDoesNotHideAFault: whatever a page asks for, and however its scripts
// are named, the report of what it lacks can be read.
func TestAnAddressDoesNotHideAFault(t *testing.T) {
	const origin = "http://127.0.0.1:1"
	for address, file := range map[string]string{
		"/js/a%20b.js": "js/a b.js", "/sounds/x": "sounds/x", "/%20/x.js": "", "/%20../x": "", "/%20": "", "/a/%20/b": "a/ /b", "/..%20/x": ".. /x",
		"/%E2%80%AE/x.js": "", "/a%0Ab.js": "", "/%FF.js": "", "/" + strings.Repeat("x", 400): "", "/%2e%2e/%20/..": "index.html", "/%20%20a.js": "", "//x/y.js": "x/y.js",
	} {
		ev := newEvidence(verdict.Phone, origin, nil)
		ev.ask("1", origin+address, "Script", ev.at(fault{}, origin+address, 3, 4))
		ev.missed("1", 404, "")
		ev.errors = append(ev.errors, ev.at(fault{text: "x is not defined"}, origin+address, 3, 4)) // as from a script of this name
		if len(ev.missing) != 1 {
			t.Errorf("%q: %+v", address, ev.missing)
		}
		checks := judge(ev, &round{opened: true}, nil)
		raw, err := json.Marshal(verdict.Line{Report: &verdict.Report{Verdict: conclude(checks), Checks: checks}})
		if err != nil {
			t.Fatal(err)
		}
		l, err := verdict.Parse(raw)
		if err != nil {
			t.Errorf("%q: %v", address, err)
			continue
		}
		for _, name := range []verdict.Name{verdict.Loads, verdict.Errors} {
			c := find(l.Report, name, verdict.Phone)
			if c.Status != verdict.Failed || c.File != file || c.File == "" && c.Line+c.Column > 0 {
				t.Errorf("%q: %+v", address, c)
			}
		}
	}
}

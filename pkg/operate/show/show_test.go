package show

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
	"github.com/notef-neighbor/dreamcore/pkg/work/account"
	"github.com/notef-neighbor/dreamcore/pkg/work/archive"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

func TestListsArePrintedAsTablesAndAsJSON(t *testing.T) {
	type row struct {
		Name string `json:"name"`
	}
	names := List[row]{Key: "names", Columns: Columns("NAME", ">LENGTH"), Cells: func(r row) []string { return []string{r.Name, "7"} }, Empty: "no names", Hint: "add one"}
	for _, tt := range []struct {
		json bool
		rows []row
		want string
	}{
		{true, nil, `{"names":[],"total":1}` + "\n"},
		{true, []row{{"a"}}, `{"names":[{"name":"a"}],"total":1}` + "\n"},
		{false, nil, "• no names\n→ add one\n"},
		{false, []row{{"a"}}, "NAME  LENGTH\na          7\n"},
	} {
		io, out, _ := term.Buffers("")
		io.JSON = tt.json
		if err := names.Show(io, tt.rows, map[string]any{"total": 1}); err != nil || out.String() != tt.want {
			t.Errorf("%q, %v", out, err)
		}
	}
}

func TestSandboxesAreShownWithTheirAge(t *testing.T) {
	now := time.Now()
	io, out, _ := term.Buffers("")
	sandboxes := []workspace.Info{{Name: "user-1", State: "busy", Jobs: 2, Created: now.Add(-90 * time.Minute), LastUsed: now}}
	if err := Sandboxes(io, sandboxes, now); err != nil || !strings.Contains(out.String(), "user-1") || !strings.Contains(out.String(), "1h30m") || !strings.Contains(out.String(), "now") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestARecordOfTheAuditLogIsOneCleanLine(t *testing.T) {
	io, out, _ := term.Buffers("")
	e := audit.Entry{Time: time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC), Event: audit.EventAuth, Verdict: audit.Refused, Method: "GET", Target: "/users\x1b[2J\nnext", Status: 401}
	if err := Audited(io, e, nil); err != nil || strings.Count(out.String(), "\n") != 1 || strings.Contains(out.String(), "\x1b") {
		t.Errorf("%v, %q", err, out)
	}
	if want := "status=401"; !strings.Contains(out.String(), want) || strings.Contains(out.String(), "usd=") || strings.Contains(out.String(), "tokens=") {
		t.Errorf("%q", out)
	}
	io.JSON = true
	out.Reset()
	if err := Audited(io, e, []byte(`{"stored":true}`)); err != nil || out.String() != `{"stored":true}`+"\n" {
		t.Errorf("%v, %q", err, out)
	}
}

func TestAFailedMoveShowsTheProjectsButNoSuccess(t *testing.T) {
	report := archive.Report{Projects: []archive.Result{{Project: "p-1", State: archive.Copied, Files: 2}, {Project: "p-2", State: archive.Skipped, Reason: "it exists"}}}
	for _, failed := range []error{nil, errors.New("no space")} {
		io, out, _ := term.Buffers("")
		if err := Moved(io, report, failed); err != nil || !strings.Contains(out.String(), "it exists; --force replaces them") {
			t.Errorf("%v\n%s", err, out)
		}
		if strings.Contains(out.String(), "1 projects copied") != (failed == nil) {
			t.Errorf("%v:\n%s", failed, out)
		}
	}
	io, out, _ := term.Buffers("")
	io.JSON = true
	if err := Moved(io, archive.Report{}, errors.New("no such file")); err != nil || out.Len() > 0 {
		t.Errorf("%v, %q: the error alone is printed", err, out)
	}
	if err := Moved(io, archive.Report{}, nil); err != nil || out.String() != `{"projects":[]}`+"\n" {
		t.Errorf("%v, %q", err, out)
	}
}

func TestAListCanBeShownAsItIs(t *testing.T) {
	io, out, _ := term.Buffers("")
	io.JSON = true
	if err := Users(io, account.Users{Next: "u-2"}); err != nil || !strings.Contains(out.String(), `"u-2"`) {
		t.Errorf("%v, %q", err, out)
	}
	io, out, errOut := term.Buffers("")
	if err := Users(io, account.Users{Users: []account.User{{ID: "u-1"}}, Next: "u-2"}); err != nil || !strings.Contains(out.String(), "u-1") || !strings.Contains(errOut.String(), "--after u-2") {
		t.Errorf("%v, %q, %q", err, out, errOut)
	}
}

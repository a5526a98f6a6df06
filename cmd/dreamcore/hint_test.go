package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/operate/deploy"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

func TestAHintNamesTheCommandForTheReason(t *testing.T) {
	cause := &dreamcore.Error{Code: dreamcore.CodeConflict, Reason: deploy.ReasonOccupied, Message: "in the way", Hint: "move it away", Err: errors.New("exists")}
	for _, tt := range []struct {
		err  error
		want string
	}{
		{nil, ""},
		{errors.New("plain"), ""},
		{&dreamcore.Error{Hint: "only this"}, "only this"},
		{&dreamcore.Error{Reason: client.ReasonTimeout}, hints()[string(client.ReasonTimeout)]},
		{&dreamcore.Error{Reason: "unknown"}, ""},
		{fmt.Errorf("unit: %w", cause), "move it away; then run: dreamcore deploy"},
		{&dreamcore.Error{Message: "outer", Err: cause}, "move it away; then run: dreamcore deploy"},
	} {
		if got := hintOf(tt.err); got != tt.want {
			t.Errorf("%v: %q", tt.err, got)
		}
	}
	io, _, errOut := term.Buffers("")
	a := &app{io: io, redactor: &secret.Redactor{}}
	if code := a.report(fmt.Errorf("unit: %w", cause)); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	for _, want := range []string{"unit: in the way\n", "\n  exists\n", "→ move it away; then run: dreamcore deploy\n"} {
		if !strings.Contains(errOut.String(), want) {
			t.Errorf("%q is not in %q", want, errOut)
		}
	}
}

// Every command and flag in the table exists.
func TestTheHintsNameExistingCommandsAndFlags(t *testing.T) {
	root := testRoot()
	flags := map[string]bool{}
	for _, c := range everyCommand(root) {
		for _, m := range regexp.MustCompile(`--([a-z][a-z-]*)`).FindAllStringSubmatch(c.UsageString(), -1) {
			flags[m[1]] = true
		}
	}
	for reason, hint := range hints() {
		for _, m := range flagName.FindAllStringSubmatch(hint, -1) {
			if !flags[m[1]] {
				t.Errorf("%s: there is no flag --%s", reason, m[1])
			}
		}
		for _, m := range command.FindAllStringSubmatch(strings.ReplaceAll(hint, ",", ""), -1) {
			if _, err := findCommand(root, strings.Fields(m[1])); err != nil {
				t.Errorf("%s: dreamcore%s: %v", reason, m[1], err)
			}
		}
	}
}

// The table has every reason that a package declares, and no other.
func TestEveryReasonIsInTheTable(t *testing.T) {
	declared := regexp.MustCompile(`dreamcore\.Reason = "([^"]+)"`)
	found := map[string]bool{}
	err := filepath.WalkDir("../../pkg", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		raw, err := os.ReadFile(path)
		for _, m := range declared.FindAllSubmatch(raw, -1) {
			reason := string(m[1])
			found[reason] = true
			if _, ok := hints()[reason]; !ok {
				t.Errorf("%s: the reason %s has no entry", path, reason)
			}
		}
		return err
	})
	if err != nil || len(found) == 0 {
		t.Errorf("%d reasons, %v", len(found), err)
	}
	for key := range hints() {
		if strings.Contains(key, ".") && !found[key] {
			t.Errorf("no package declares the reason %s", key)
		}
	}
}

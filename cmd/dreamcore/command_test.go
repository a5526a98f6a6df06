package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// cli runs commands on a state directory, without a terminal and without the
// environment of this process.
type cli struct {
	t     *testing.T
	state string
	in    string
}

func (c cli) run(args ...string) (out, errOut string, err error) {
	c.t.Helper()
	io, o, e := term.Buffers(c.in)
	a := &app{io: io, env: config.ReadEnvironment(nil), redactor: &secret.Redactor{}, flags: map[string]any{}}
	root := newRootCmd(a)
	root.SetArgs(append([]string{"--state", c.state}, args...))
	err = root.ExecuteContext(c.t.Context())
	return o.String(), e.String(), err
}

func (c cli) must(args ...string) string {
	c.t.Helper()
	out, _, err := c.run(args...)
	if err != nil {
		c.t.Fatalf("%q: %v", args, err)
	}
	return out
}

func newCLI(t *testing.T) cli { return cli{t: t, state: filepath.Join(t.TempDir(), "state")} }

func TestVolumeCommands(t *testing.T) {
	c := newCLI(t)
	for i, want := range []string{"created", "exists"} {
		if out := c.must("volume", "create", "assets"); !strings.Contains(out, want) {
			t.Errorf("%d: %s", i, out)
		}
	}
	if out := c.must("volume", "list", "--json"); out != `{"volumes":[{"name":"assets","path":"`+c.state+`/volumes/assets"}]}`+"\n" {
		t.Error(out)
	}
	local := filepath.Join(t.TempDir(), "a.txt")
	if err := os.WriteFile(local, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := c.must("volume", "put", "assets", local, "dir/", "--json"); out != `{"files":1,"bytes":5,"left_out":[]}`+"\n" {
		t.Error(out)
	}
	if _, _, err := c.run("volume", "put", "assets", local, "dir/"); dreamcore.CodeOf(err) != dreamcore.CodeConflict || !strings.Contains(hintOf(err), "--force") {
		t.Errorf("%v, hint %q", err, hintOf(err))
	}
	if _, _, err := c.run("volume", "put", "assets", "-", "dir/"); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
		t.Errorf("standard input without a name: %v", err)
	}
	c.in = "from a pipe"
	c.must("volume", "put", "assets", "-", "b.txt")
	if out := c.must("volume", "get", "assets", "b.txt", "-"); out != "from a pipe" {
		t.Errorf("%q", out)
	}
	if _, _, err := c.run("volume", "get", "assets", "dir", "-"); dreamcore.CodeOf(err) != dreamcore.CodeInvalid || hintOf(err) == "" {
		t.Errorf("a directory on standard output: %v", err)
	}
	var listed struct {
		Entries []struct {
			Type string
			Size int64
		}
	}
	if err := json.Unmarshal([]byte(c.must("volume", "ls", "assets", "--json")), &listed); err != nil || len(listed.Entries) != 2 || listed.Entries[0].Size != 11 || listed.Entries[1].Type != "dir" {
		t.Errorf("%+v, %v", listed, err)
	}
	dest := t.TempDir()
	c.must("volume", "get", "assets", "dir", dest)
	if raw, err := os.ReadFile(filepath.Join(dest, "dir", "a.txt")); err != nil || string(raw) != "hello" {
		t.Errorf("%q, %v", raw, err)
	}
	for _, path := range []string{"/", "dir"} {
		if _, _, err := c.run("volume", "rm", "assets", path); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
			t.Errorf("rm %s: %v", path, err)
		}
	}
	if out := c.must("volume", "delete", "-r", "assets", "dir", "--json"); out != `{"removed":"dir"}`+"\n" {
		t.Error(out)
	}
}

func TestSecretCommands(t *testing.T) {
	c := newCLI(t)
	if _, _, err := c.run("secret", "list"); dreamcore.CodeOf(err) != dreamcore.CodeNotFound && dreamcore.CodeOf(err) != dreamcore.CodeSetup {
		t.Errorf("without a store: %v", err)
	}
	c.must("secret", "create", "weather", "KEY=abc", "USER=me")
	if out := c.must("secret", "show", "weather", "KEY"); out != "abc\n" {
		t.Errorf("%q", out)
	}
	if out := c.must("secret", "show", "weather"); out != "KEY=abc\nUSER=me\n" {
		t.Errorf("%q", out)
	}
	if _, _, err := c.run("secret", "show", "weather", "NONE"); dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
		t.Errorf("%v", err)
	}
	if out := c.must("secret", "list"); !strings.Contains(out, "KEY, USER") || strings.Contains(out, "abc") {
		t.Error(out)
	}
	if _, _, err := c.run("secret", "delete", "weather"); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
		t.Errorf("deleted without a confirmation: %v", err)
	}
	if out := c.must("secret", "delete", "weather", "--yes", "--json"); out != `{"deleted":"weather"}`+"\n" {
		t.Error(out)
	}
	c.must("secret", "create", secret.InternalSecret, secret.InternalKey+"="+strings.Repeat("ab", 32))
	if out := c.must("secret", "rotate", "--finish"); !strings.Contains(out, "no rotation to finish") {
		t.Error(out)
	}
	c.must("secret", "rotate")
	if out := c.must("secret", "rotate", "--finish", "--json"); out != `{"finished":true,"name":"modal-internal-secret"}`+"\n" {
		t.Error(out)
	}
}

func TestUsageAndAuditOfAnEmptyState(t *testing.T) {
	c := newCLI(t)
	c.must("volume", "create", "assets")
	if out := c.must("usage"); !strings.Contains(out, "nothing was spent") {
		t.Error(out)
	}
	if out := c.must("usage", "--csv"); !strings.HasPrefix(out, "day,requests,input_tokens,") || strings.Count(out, "\n") != 1 {
		t.Error(out)
	}
	if out := c.must("audit"); out != "" {
		t.Error(out)
	}
	for _, args := range [][]string{{"usage", "--since", "yesterday"}, {"audit", "--since", "-1h"}, {"usage", "--user", "me"}, {"usage", "--by", "moon"}} {
		if _, _, err := c.run(args...); dreamcore.CodeOf(err) != dreamcore.CodeInvalid || hintOf(err) == "" {
			t.Errorf("%q: %v", args, err)
		}
	}
}

func TestPromptsAreListedAndChecked(t *testing.T) {
	c := newCLI(t)
	c.must("volume", "create", "dreamcore-global")
	if out := c.must("prompts", "list"); !strings.Contains(out, "detect_intent") || !strings.Contains(out, "embedded") {
		t.Error(out)
	}
	if out := c.must("prompts", "show", "detect-intent"); !strings.Contains(out, "model:") {
		t.Error(out)
	}
	if out := c.must("prompts", "check"); !strings.Contains(out, "no errors") {
		t.Error(out)
	}
	c.in = "name: [\n"
	c.must("volume", "put", "dreamcore-global", "-", "prompts/broken.yaml")
	if _, _, err := c.run("prompts", "check", "--json"); !errors.Is(err, exitCode(exitFailed)) {
		t.Errorf("%v", err)
	}
	if _, _, err := c.run("prompts", "show", "nothing"); dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
		t.Errorf("%v", err)
	}
}

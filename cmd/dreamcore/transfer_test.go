package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// transfer runs a command that shows its progress as often as it can.
func (c cli) transfer(args ...string) (out, errOut string) {
	c.t.Helper()
	io, o, e := term.Buffers(c.in)
	io.Interval = time.Nanosecond
	a := &app{io: io, env: config.ReadEnvironment(nil), redactor: &secret.Redactor{}, flags: map[string]any{}}
	root := newRootCmd(a)
	root.SetArgs(append([]string{"--state", c.state}, args...))
	if err := root.ExecuteContext(c.t.Context()); err != nil {
		c.t.Fatalf("%q: %v\n%s", args, err, e)
	}
	return o.String(), e.String()
}

// TestLongCopiesShowBytes runs every command that copies what may be large. They say
// how many bytes they have copied, and of how many where that is known; for a program
// they say nothing.
func TestLongCopiesShowBytes(t *testing.T) {
	c := newCLI(t)
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	const place = "users/11111111-1111-4111-8111-111111111111/projects/22222222-2222-4222-8222-222222222222"
	game := filepath.Join(dir, "old", place)
	if err := errors.Join(os.MkdirAll(game, 0o755), os.WriteFile(filepath.Join(game, "index.html"), []byte(strings.Repeat("x", 300_000)), 0o644)); err != nil {
		t.Fatal(err)
	}
	c.must("volume", "create", "assets")
	c.in = strings.Repeat("y", 300_000)
	some, whole := regexp.MustCompile(`: [1-9][0-9.]* k?B`), regexp.MustCompile(`: [1-9][0-9.]* k?B of [1-9][0-9.]* k?B`)
	for _, tt := range []struct {
		want *regexp.Regexp
		args []string
	}{
		{some, []string{"import", in("old")}},
		{some, []string{"export", "--all", in("game.tar.zst")}},
		{some, []string{"export", "--all", in("game")}},
		{whole, []string{"import", in("game.tar.zst")}},
		{some, []string{"backup", in("all.tar")}},
		{whole, []string{"restore", "--check", in("all.tar")}},
		{whole, []string{"restore", "--force", in("all.tar")}},
		{whole, []string{"volume", "put", "assets", in("old"), "game"}},
		{whole, []string{"volume", "put", "assets", filepath.Join(game, "index.html"), "file"}},
		{some, []string{"volume", "put", "assets", "-", "input"}},
		{whole, []string{"volume", "put", "dreamcore-data", filepath.Join(game, "index.html"), place + "/more"}},
		{some, []string{"volume", "get", "assets", "game", in("out")}},
		{whole, []string{"volume", "get", "assets", "input", in("input")}},
		{whole, []string{"volume", "get", "assets", "input", "-"}},
	} {
		if _, errOut := c.transfer(tt.args...); !tt.want.MatchString(errOut) {
			t.Errorf("%q says:\n%s", tt.args, errOut)
		}
		again := tt.args
		switch again[0] {
		case "export", "backup":
			again = append(again[:len(again)-1:len(again)-1], in("json-"+filepath.Base(again[len(again)-1])))
		case "volume":
			again = append([]string{"volume", again[1], "--force"}, again[2:]...)
		}
		out, errOut := c.transfer(append([]string{"--json"}, again...)...)
		if again[len(again)-1] == "-" {
			continue // standard output is the copy
		}
		if errOut != "" || !json.Valid([]byte(out)) {
			t.Errorf("%q --json says:\n%s\nand %s", again, errOut, out)
		}
	}
}

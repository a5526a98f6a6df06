package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/operate/commandline"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// runnable returns every command that does something itself.
func runnable(root *cobra.Command) (all []*cobra.Command) {
	for _, c := range everyCommand(root) {
		if !c.HasSubCommands() || c.Use == "jobs" || commandline.ListOf(c) != nil {
			all = append(all, c)
		}
	}
	return all
}

func TestEveryCommandSaysHowItUsesTheStateDirectory(t *testing.T) {
	named := map[string]bool{}
	for _, c := range runnable(testRoot()) {
		if c.Annotations[commandline.StateKey] == "" && commandline.ListOf(c) == nil {
			t.Errorf("%s does not say how it uses the state directory", c.CommandPath())
		}
	}
	for _, c := range everyCommand(testRoot()) {
		named[c.CommandPath()] = true
	}
	for _, m := range regexp.MustCompile(`(?m)^== (dreamcore[a-z -]*)`).FindAllStringSubmatch(commandTexts, -1) {
		if path := strings.TrimRight(m[1], " -"); !named[path] {
			t.Errorf("there is no command %s", path)
		}
	}
}

// arguments returns valid arguments for a command.
func arguments(c *cobra.Command) (args []string) {
	for range 5 {
		if c.Args == nil || c.Args(c, args) == nil {
			return args
		}
		args = append(args, project1)
	}
	return args
}

const project1 = "123e4567-e89b-42d3-a456-426614174000"

// tree returns the names below a directory.
func treeOf(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		names = append(names, path)
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return names
}

// A mistyped directory must not look like an empty one.
func TestCommandsThatReadCreateNothingAndNameTheDirectory(t *testing.T) {
	for _, c := range runnable(testRoot()) {
		if u := commandline.UseOf(c).Access; u != commandline.Reads && u != commandline.Looks {
			continue
		}
		words := append(strings.Fields(c.CommandPath())[1:], arguments(c)...)
		if c.Name() == "prune" {
			words = append(words, "--unused-for", "1h")
		}
		if c.Name() == "delete" {
			words = append(words, "--yes")[:len(words)+map[bool]int{true: 1}[c.Flags().Lookup("yes") != nil]]
		}
		missing := newCLI(t)
		_, _, err := missing.run(words...)
		if dreamcore.CodeOf(err) != dreamcore.CodeNotFound || !strings.Contains(err.Error(), missing.state) || !strings.Contains(hintOf(err), "--state") {
			t.Errorf("%q without a state directory: %v, hint %q", words, err, hintOf(err))
		}
		if names := treeOf(t, missing.state); len(names) > 1 {
			t.Errorf("%q created %v", words, names)
		}
		other := cli{t: t, state: t.TempDir()} // a directory, but of something else
		if _, _, err := other.run(words...); dreamcore.CodeOf(err) != dreamcore.CodeNotFound || !strings.Contains(err.Error(), other.state) {
			t.Errorf("%q in another directory: %v", words, err)
		}
		if names := treeOf(t, other.state); len(names) > 1 {
			t.Errorf("%q created %v in another directory", words, names)
		}
	}
}

// lookCommands returns the arguments of every command that only looks at the state
// directory.
func lookCommands() (all [][]string) {
	for _, c := range runnable(testRoot()) {
		if commandline.UseOf(c).Access == commandline.Looks {
			all = append(all, append(strings.Fields(c.CommandPath())[1:], arguments(c)...))
		}
	}
	return all
}

// everything lists the files below a directory, with all that a change would change.
func everything(t *testing.T, dir string) (all []string) {
	t.Helper()
	for _, path := range treeOf(t, dir) {
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprint(path, " ", info.Mode(), " ", info.ModTime().UnixNano())
		if info.Mode().IsRegular() {
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			line += fmt.Sprintf(" %x", sha256.Sum256(raw))
		}
		all = append(all, line)
	}
	return all
}

func TestCommandsThatLookCreateNothing(t *testing.T) {
	for name, fill := range map[string]func(c cli){
		"fresh": func(cli) {},
		"filled": func(c cli) {
			c.must("volume", "create", "dreamcore-global")
			c.must("users", "block", project1)
			c.must("secret", "create", "mine", "KEY=value")
		},
	} {
		for _, words := range lookCommands() {
			c := newCLI(t) // for each command, which could make what the next one would
			// The least that is a state directory with volumes.
			if err := os.MkdirAll(filepath.Join(c.state, daemon.VolumesDir, "dreamcore-data"), 0o700); err != nil {
				t.Fatal(err)
			}
			fill(c)
			before := everything(t, c.state)
			_, _, err := c.run(words...)
			if after := everything(t, c.state); !slices.Equal(before, after) {
				t.Errorf("%s: %q (%v) changed\n%s\nto\n%s", name, words, err, strings.Join(before, "\n"), strings.Join(after, "\n"))
			}
		}
	}
}

// With --json, both streams have JSON only, whatever happens.
func TestJSONIsPureOnEveryPath(t *testing.T) {
	for _, args := range [][]string{
		{"--json", "--version"}, {"--version", "--json"}, {"version", "--json"}, {"--help", "--json"}, {"secret", "--json"}, {"secret", "--help", "--json"},
		{"usage", "--no-such-flag", "--json"}, {"--json", "nothing"}, {"usage", "--json"}, {"jobs", "show", "--json"}, {"jobs", "show", "xyz", "--json"},
		{"jobs", "--limit", "many", "--json"}, {"generate", "--json"}, {"generate", "--user", "me", "x", "--json"}, {"config", "show", "nothing", "--json"}, {"config", "show", "timeout", "--json"},
		{"help", "nothing", "--json"}, {"help", "usage", "--json"}, {"help", "install", "--json"}, {"gate", "--json", "--no-such"},
	} {
		io, out, errOut := term.Buffers("")
		a := &app{io: io, env: config.ReadEnvironment(nil), redactor: &secret.Redactor{}, flags: map[string]any{}}
		err := a.execute(t.Context(), append([]string{"--state", filepath.Join(t.TempDir(), "none")}, args...))
		code := a.report(err)
		for _, text := range []string{out.String(), errOut.String()} {
			for line := range strings.Lines(text) {
				if !json.Valid([]byte(line)) {
					t.Errorf("%q prints %q", args, line)
				}
			}
		}
		var object struct{ Error, Code, Hint string }
		if code != exitOK && (json.Unmarshal(errOut.Bytes(), &object) != nil || object.Error == "" || object.Code == "") {
			t.Errorf("%q: exit code %d, the error is %q", args, code, errOut)
		}
		if code == exitOK && out.Len() == 0 {
			t.Errorf("%q prints nothing", args)
		}
	}
}

func TestATypingErrorGetsTheWordThatWasMeant(t *testing.T) {
	c := newCLI(t)
	for want, args := range map[string][]string{
		"dreamcore jobs":          {"job"},
		"dreamcore jobs show":     {"jobs", "shwo"},
		"dreamcore secret rotate": {"secret", "rotat"},
		"--since":                 {"usage", "--sinse", "1h"},
		"timeout":                 {"config", "show", "timout"},
		"help troubleshooting":    {"help", "trubleshooting"},
	} {
		_, _, err := c.run(args...)
		if hint := hintOf(err); dreamcore.CodeOf(err) != dreamcore.CodeInvalid || !strings.Contains(hint, "did you mean: ") || !strings.HasSuffix(hint, want) {
			t.Errorf("%q: %v, hint %q", args, err, hint)
		}
	}
	c.state = t.TempDir()
	if err := os.WriteFile(filepath.Join(c.state, config.FileName), []byte("timout: 5m\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.run("config", "check"); !strings.HasSuffix(hintOf(err), "did you mean: timeout") {
		t.Errorf("%v, hint %q", err, hintOf(err))
	}
}

func TestEveryCommandHasAnExampleThatParses(t *testing.T) {
	root := testRoot()
	for _, c := range everyCommand(root) {
		if c.Example == "" {
			t.Errorf("%s has no example", c.CommandPath())
		}
		for _, m := range command.FindAllStringSubmatch(c.Example, -1) {
			if _, err := findCommand(root, strings.Fields(m[1])); err != nil {
				t.Errorf("%s: dreamcore%s: %v", c.CommandPath(), m[1], err)
			}
		}
	}
}

// Each of these means the same in every command.
func TestWordsOfTheCommandLineMeanOneThing(t *testing.T) {
	for _, c := range everyCommand(testRoot()) {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if long, ok := map[string]string{"f": "follow", "o": "output", "y": "yes", "r": "recursive", "i": "stdin"}[f.Shorthand]; ok && f.Name != long {
				t.Errorf("%s: -%s is --%s, elsewhere --%s", c.CommandPath(), f.Shorthand, f.Name, long)
			}
		})
		for name, alias := range map[string]string{"list": "ls", "delete": "rm"} {
			if c.Name() == name && !c.HasAlias(alias) {
				t.Errorf("%s has no alias %s", c.CommandPath(), alias)
			}
			if c.Name() == alias || c.Name() == "remove" {
				t.Errorf("%s must be called %s", c.CommandPath(), name)
			}
		}
	}
}

// Sources that show times use term.Time, and those that cut texts Printer.Fit.
func TestTimesHaveAZoneAndTextIsNotCutInAPipe(t *testing.T) {
	for _, dir := range []string{".", "../../pkg/operate"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			raw, err := os.ReadFile(path)
			if regexp.MustCompile(`\.Local\(\)|time\.RFC1123`).Match(raw) {
				t.Errorf("%s shows a time in a zone that it does not name", path)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	io, out, _ := term.Buffers("")
	long := strings.Repeat("word ", 100) + "end"
	if p := io.Stdout(); p.Fit(long, 20) != long {
		t.Error("a text is cut in a pipe")
	}
	io.Stdout().Table(term.Table{Columns: []term.Column{{Title: "prompt", Cut: true}}, Rows: [][]term.Cell{term.Row(long)}})
	if !strings.Contains(out.String(), "end") {
		t.Error("a cell is cut in a pipe")
	}
}

// The printed next step works where the command has worked, and for the same user.
func TestHintsRepeatTheFlagsThatWereGiven(t *testing.T) {
	for _, tt := range []struct {
		args       []string
		hint, want string
	}{
		{[]string{"generate", "x"}, "run: dreamcore generate --project P \"make it faster\"", "run: dreamcore generate --project P \"make it faster\""},
		{[]string{"generate", "--user", "U", "--endpoint", "host:1", "--state", "/s", "x"}, "run: dreamcore generate --project P \"x\"",
			"run: dreamcore generate --endpoint host:1 --state /s --user U --project P \"x\""},
		{[]string{"generate", "--model-script", "demo", "--allow-host", "a.test", "--allow-host", "b.test", "x"}, "run: dreamcore generate --project P \"x\"",
			"run: dreamcore generate --allow-host a.test --allow-host b.test --model-script demo --project P \"x\""},
		{[]string{"generate", "--user", "U", "--model-script", "demo", "--state", "/a b", "x"}, "see: dreamcore usage, or dreamcore jobs show J",
			"see: dreamcore usage --state '/a b' --user U, or dreamcore jobs show --state '/a b' J"},
		{[]string{"jobs", "--state", "/s"}, "start it with: dreamcore serve (or --state DIR)", "start it with: dreamcore serve --state /s (or --state DIR)"},
		{[]string{"jobs", "--state", "/s"}, "describe the game", "describe the game"},
	} {
		io, _, _ := term.Buffers("")
		a := &app{io: io, flags: map[string]any{}}
		root := newRootCmd(a)
		c, rest, err := root.Find(tt.args)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.ParseFlags(rest); err != nil {
			t.Fatal(err)
		}
		if got := commandline.Repeat(c, tt.hint); got != tt.want {
			t.Errorf("%q:\n got %s\nwant %s", tt.args, got, tt.want)
		}
	}
}

func TestTheSourceOfEverySettingIsShown(t *testing.T) {
	c := cli{t: t, state: t.TempDir()}
	if err := os.WriteFile(filepath.Join(c.state, config.FileName), []byte("timeout: 7m\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var shown struct{ Settings []config.Effective }
	if err := json.Unmarshal([]byte(c.must("config", "show", "--json")), &shown); err != nil || len(shown.Settings) != len(config.Settings()) {
		t.Fatalf("%d settings, %v", len(shown.Settings), err)
	}
	for _, want := range []config.Effective{
		{Key: "timeout", Value: "7m0s", Source: filepath.Join(c.state, config.FileName)}, {Key: "listen", Value: config.DefaultListen, Source: "default"}, {Key: "state", Value: c.state, Source: "a flag"},
	} {
		if !slices.Contains(shown.Settings, want) {
			t.Errorf("%+v is not shown", want)
		}
	}
	if out := c.must("config", "check"); !strings.Contains(out, "valid") {
		t.Error(out)
	}
}

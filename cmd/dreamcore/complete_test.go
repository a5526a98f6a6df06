package main

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/api/control"
	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/operate/commandline"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

// offers returns the words that a shell would offer.
func (c cli) offers(args ...string) (found []string) {
	c.t.Helper()
	for line := range strings.Lines(c.must(append([]string{"__complete"}, args...)...)) {
		if word, _, _ := strings.Cut(strings.TrimSpace(line), "\t"); !strings.HasPrefix(word, ":") {
			found = append(found, word)
		}
	}
	return found
}

// tree lists the files below the state directory with their sizes.
func (c cli) tree() (files []string) {
	c.t.Helper()
	err := filepath.WalkDir(c.state, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			files = append(files, path+" "+d.Type().String())
		}
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return files
}

func TestTheShellOffersWhatThereIs(t *testing.T) {
	c := newCLI(t)
	c.must("volume", "create", volume.Data)
	c.must("volume", "create", "assets")
	c.must("secret", "create", "deploy-key", "USER=a", "PASSWORD=b")
	c.must("users", "list") // opens everything once
	before := c.tree()
	for _, tt := range []struct {
		args []string
		want []string
		only bool // nothing else is offered
	}{
		{[]string{"secret", "show", ""}, []string{"deploy-key"}, true},
		{[]string{"secret", "show", "deploy-key", "P"}, []string{"PASSWORD"}, true},
		{[]string{"secret", "delete", "deploy-key", ""}, nil, true},
		{[]string{"secret", "rm", "dep"}, []string{"deploy-key"}, true},
		{[]string{"gate", "iso"}, []string{"isolation"}, true},
		{[]string{"gate", "isolation", "iso"}, nil, true},
		{[]string{"gate", "--all", ""}, []string{"isolation", "fork-bomb"}, false},
		{[]string{"serve", "--runtime", ""}, []string{"gvisor", "runc"}, true},
		{[]string{"serve", "--runtime", "r"}, []string{"runc"}, true},
		{[]string{"generate", "--log-level", ""}, nil, false},
		{[]string{"prompts", "show", "detect_"}, []string{"detect_intent", "detect_skills"}, true},
		{[]string{"prompts", "run", "chat_haiku", ""}, nil, true},
		{[]string{"config", "show", "max_gen"}, []string{"max_generations"}, true},
		{[]string{"config", "show", "timeout", "time"}, nil, true},
		{[]string{"help", "tro"}, []string{"troubleshooting"}, true},
		{[]string{"help", "secret", "ro"}, []string{"rotate"}, false},
		{[]string{"volume", "list", "as"}, []string{"assets"}, true},
		{[]string{"sandbox", "exec", ""}, nil, true}, // no service is running
	} {
		got := c.offers(tt.args...)
		for _, w := range tt.want {
			if !slices.Contains(got, w) {
				t.Errorf("%q offers %q, not %q", tt.args, got, w)
			}
		}
		if tt.only && len(got) != len(tt.want) {
			t.Errorf("%q offers %q, want %q", tt.args, got, tt.want)
		}
	}
	if after := c.tree(); !slices.Equal(before, after) {
		t.Errorf("completions have changed the state directory from\n%s\nto\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
}

func TestCompletionsCreateNoStateDirectory(t *testing.T) {
	for _, args := range [][]string{
		{"secret", "show"}, {"prompts", "show"}, {"prompts", "run"}, {"volume", "put"}, {"sandbox", "exec"}, {"generate", "--user"},
		{"generate", "--follow"}, {"generate", "--image"}, {"jobs", "show"}, {"users", "show"}, {"usage", "--user"},
	} {
		c := newCLI(t)
		out, errOut, err := c.run(append(append([]string{"__complete"}, args...), "")...)
		if err != nil || strings.Contains(errOut, "rror") || strings.Count(out, "\n") != 1 {
			t.Errorf("%q: %q, %q, %v", args, out, errOut, err)
		}
		if _, err := os.Stat(c.state); err == nil {
			t.Errorf("%q created the state directory", args)
		}
	}
}

// A service that does not answer must not hold the shell.
func TestCompletionsAreQuick(t *testing.T) {
	c := newCLI(t)
	c.must("volume", "create", volume.Data)
	dir := filepath.Join(c.state, daemon.RunDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir) // the whole path is too long for an address
	l, err := net.Listen("unix", control.SocketName)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	began := time.Now()
	if got := c.offers("sandbox", "stop", ""); len(got) != 0 {
		t.Errorf("%q", got)
	}
	if d := time.Since(began); d < commandline.CompletionLimit/2 || d > 5*commandline.CompletionLimit {
		t.Errorf("the shell waited %v", d)
	}
}

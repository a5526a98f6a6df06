package agent

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

const session = "123e4567-e89b-42d3-a456-426614174000"

func TestCommand(t *testing.T) {
	base := Config{Path: "/opt/claude", Home: "/home/agent", Socket: "/run/gw/api.sock", UID: 10000, GID: 10001}
	narrow := base
	narrow.Tools, narrow.Model, narrow.Turns = []string{"Read", "Write"}, "claude-x", 40
	skills := base
	skills.Skills = "/global/.claude"
	narrowSkills := narrow
	narrowSkills.Skills = "/global/.claude"
	hosts := base
	hosts.Hosts = []string{"api.example.com", ".example.org"}
	for _, tt := range []struct {
		name    string
		config  Config
		session Session
	}{
		{"first", base, Session{ID: session}},
		{"resume", base, Session{ID: session, Resume: true}},
		{"narrowed", narrow, Session{ID: session}},
		{"skills", skills, Session{ID: session}},
		{"narrowed-skills", narrowSkills, Session{ID: session}},
		{"hosts", hosts, Session{ID: session}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := tt.config.Command("/data/p", "sk-token", tt.session)
			var b strings.Builder
			fmt.Fprintf(&b, "uid %d gid %d\ndir %s\n", c.UID, c.GID, c.Dir)
			for _, a := range c.Args {
				fmt.Fprintf(&b, "arg %q\n", a)
			}
			for _, e := range c.Env {
				fmt.Fprintf(&b, "env %s\n", e)
			}
			file := filepath.Join("testdata", tt.name+".golden")
			if *update {
				if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), b.String()); diff != "" {
				t.Errorf("the command has changed; is the CLI still proven with it? (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSkillsLeaveDefaultToolsUnchanged(t *testing.T) {
	tools := make([]string, 1, 8)
	tools[0] = "Skill"
	c := Config{Tools: tools, Skills: "/s"}
	if got := strings.Join(c.Command("", "", Session{}).Args, " "); !strings.Contains(got, "--tools Skill --") {
		t.Errorf("the tool is named twice: %s", got)
	}
	for range 2 {
		_ = Config{Skills: "/s"}.Command("", "", Session{})
	}
	if slices.Contains(DefaultTools, "Skill") || len(DefaultTools) != 6 {
		t.Errorf("the default tools are now %v", DefaultTools)
	}
}

func TestSystemPromptDescribesTheNetwork(t *testing.T) {
	var many []string
	for i := range shownHosts + 7 {
		many = append(many, fmt.Sprintf("h%d.example.com", i))
	}
	for _, tt := range []struct {
		hosts   []string
		says    string
		offline bool
	}{
		{nil, "no network", true},
		{[]string{"a.example.com", "b.example.com"}, "a.example.com, b.example.com.", false},
		{many, fmt.Sprintf("h%d.example.com and 7 more.", shownHosts-1), false},
	} {
		c := Config{Hosts: tt.hosts, Env: []string{"PIP_RETRIES=9"}}.Command("/p", "t", Session{ID: session})
		i := slices.Index(c.Args, "--append-system-prompt")
		if i < 0 || !strings.Contains(c.Args[i+1], tt.says) {
			t.Errorf("%d hosts: %q", len(tt.hosts), c.Args)
		}
		if slices.Contains(c.Env, "npm_config_offline=true") != tt.offline || slices.Contains(c.Env, "PIP_NO_INDEX=1") != tt.offline {
			t.Errorf("%d hosts: %q", len(tt.hosts), c.Env)
		}
		if slices.Contains(c.Env, "PIP_RETRIES=0") || !slices.Contains(c.Env, "PIP_RETRIES=9") {
			t.Errorf("the operator's variables do not replace the defaults: %q", c.Env)
		}
	}
}

// A golden file can be updated by mistake; these parts must never be lost.
func TestEveryCommandHasTheEssentialParts(t *testing.T) {
	c := Config{Path: "/opt/claude", Socket: "/run/api.sock"}.Command("/p", "sk-token", Session{ID: session})
	args := " " + strings.Join(c.Args, " ") + " "
	for _, want := range []string{" -p ", " --verbose ", " --setting-sources  ", " --strict-mcp-config ", " --output-format stream-json "} {
		if !strings.Contains(args, want) {
			t.Errorf("no %q in %q", want, args)
		}
	}
	if strings.Contains(args, "sk-token") {
		t.Error("the token is in the arguments, where every process can read it")
	}
	env := "\n" + strings.Join(c.Env, "\n") + "\n"
	for _, want := range []string{
		"\nANTHROPIC_API_KEY=sk-token\n", "\nANTHROPIC_BASE_URL=http://", "\nANTHROPIC_UNIX_SOCKET=/run/api.sock\n",
		"\nCLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1\n", "\nDISABLE_AUTOUPDATER=1\n",
	} {
		if !strings.Contains(env, want) {
			t.Errorf("no %q in %q", want, env)
		}
	}
}

func TestAPromptIsNeverACommandOfTheCLI(t *testing.T) {
	for _, prompt := range []string{"/clear everything", "/", "//x", " /help", "\n/help", "a snake", "", "日本語", "# memory", "!ls", "@file"} {
		got := Prompt(prompt)
		if strings.ContainsAny(got[:1], "/#!@ \n") || !strings.HasSuffix(got, "\n"+prompt) {
			t.Errorf("the prompt for %q is %q", prompt, got)
		}
	}
}

// The names are those that Claude Code 2.1.330 used for these directories.
func TestSessionFileIsTheOneOfTheCLI(t *testing.T) {
	for dir, want := range map[string]string{
		"/srv/h/a b":                             "-srv-h-a-b",
		"/srv/h/dot.dir_under-score":             "-srv-h-dot-dir-under-score",
		"/srv/h/ünï":                             "-srv-h--n-",
		"/srv/h/日本":                              "-srv-h---",
		"/srv/h/emoji😀x":                         "-srv-h-emoji--x", // two units of UTF-16
		"/srv/h/!\"#$%&'()*+,:;<=>?@[]^`{|}~":    "-srv-h-" + strings.Repeat("-", 27),
		"/srv/h/back\\slash":                     "-srv-h-back-slash",
		"/data/users/" + session + "/projects/P": "-data-users-" + session + "-projects-P",
	} {
		if got := SessionFile(dir, "ID"); got != ".claude/projects/"+want+"/ID.jsonl" {
			t.Errorf("%q: %s, want %s", dir, got, want)
		}
	}
}

package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/egress"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
)

func TestVariablesForSandboxes(t *testing.T) {
	const file = "sandbox_env:\n  IMAGE_API: https://images.example.com/v1\n  IMAGE_KEY: placeholder\n  EMPTY: \"\"\n"
	c, err := load(t, file, nil, nil)
	if got := c.SandboxEnviron(); err != nil || !slices.Equal(got, []string{"EMPTY=", "IMAGE_API=https://images.example.com/v1", "IMAGE_KEY=placeholder"}) {
		t.Errorf("%q, %v", got, err)
	}
	// The later source wins as a whole, as with lists.
	c, err = load(t, file, []string{`DREAMCORE_SANDBOX_ENV={"B": "2"}`}, nil)
	if err != nil || !reflect.DeepEqual(c.SandboxEnv, Variables{"B": "2"}) {
		t.Errorf("%v, %v", c.SandboxEnv, err)
	}
	if c, err = load(t, "", nil, nil); err != nil || len(c.SandboxEnviron()) != 0 {
		t.Errorf("%v, %v", c.SandboxEnv, err)
	}
}

func TestFaultsOfVariablesNameThemAndNoValue(t *testing.T) {
	const value = "sk-hidden-1234"
	many := "sandbox_env:\n"
	for i := range maxVariables + 1 {
		many += fmt.Sprintf("  A%d: x\n", i)
	}
	for file, want := range map[string]string{
		"sandbox_env: {A: 7}":                             `the value of "A" is not text`,
		"sandbox_env: {A: [" + value + "]}":               `the value of "A" is not text`,
		"sandbox_env: {A: }":                              `the value of "A" is not text`,
		"sandbox_env: {A: {B: c}}":                        `the value of "A" is not text`,
		"sandbox_env: [A=" + value + "]":                  "it is not a map",
		"sandbox_env: A=" + value:                         "it is not a JSON object",
		"sandbox_env: 7":                                  "it is not a map",
		"sandbox_env: {A-B: " + value + "}":               "is not a variable name",
		"sandbox_env: {HOME: " + value + "}":              "HOME belongs to the agent's own environment",
		"sandbox_env: {ANTHROPIC_API_KEY: " + value + "}": "ANTHROPIC_API_KEY belongs",
		"sandbox_env: {CLAUDE_CODE_MAX_RETRIES: '9'}":     "CLAUDE_CODE_MAX_RETRIES belongs",
		"sandbox_env: {A: \"" + value + "\\0\"}":          "the value of A must be",
		many:                                              "at most 64 variables",
	} {
		_, err := load(t, file, nil, nil)
		if dreamcore.CodeOf(err) != dreamcore.CodeInvalid || !strings.Contains(fmt.Sprint(err), "sandbox_env") || !strings.Contains(fmt.Sprint(err), want) || strings.Contains(fmt.Sprint(err), value) {
			t.Errorf("%.80s: %v", file, err)
		}
	}
}

func TestSandboxEnvCannotSetTheAgentsOwnVariables(t *testing.T) {
	own := agent.Config{Home: "/home/agent", Socket: "/run/api.sock"}.Command("/data", "token", agent.Session{}).Env
	own = append(own, (&egress.Socket{}).Environment("/run")...)
	own = append(own, "LD_PRELOAD=", "BASH_ENV=", "ENV=", "NODE_OPTIONS=", "SSL_CERT_FILE=", "all_proxy=", "DREAMCORE_STATE=", "MODAL_INTERNAL_SECRET=", "TERM=", "LC_ALL=")
	for _, kv := range own {
		name, _, _ := strings.Cut(kv, "=")
		if !agent.Owns(name) {
			t.Errorf("%s is not the agent's", name)
		}
	}
	for _, name := range []string{"OPENAI_API_BASE", "IMAGE_KEY", "TZ", "GEMINI_API_KEY", "path", "FOO", "HOMEPAGE", "AWS_REGION"} {
		if agent.Owns(name) {
			t.Errorf("%s is the agent's", name)
		}
	}
}

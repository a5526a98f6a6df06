package job

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
)

// proofFiles are the contents of the files that an agent leaves in its proof.
type proofFiles struct{ written, copied, uid string }

// proves returns an agent that asks the model what to write, as the CLI does, and
// then leaves the files that do returns.
func proves(do func(nonce string) proofFiles, last string) program {
	return func(g guest) (int, error) {
		status, body, err := g.ask(question)
		var answer struct {
			Content []struct {
				Input struct {
					Path    string `json:"file_path"`
					Content string `json:"content"`
				} `json:"input"`
			} `json:"content"`
		}
		if err == nil {
			err = json.Unmarshal([]byte(body), &answer)
		}
		if err != nil || status != 200 || len(answer.Content) != 1 || answer.Content[0].Input.Path != g.Dir+"/written" {
			return 0, fmt.Errorf("status %d, %w, %s", status, err, body)
		}
		g.say(`{"type":"system","subtype":"init","claude_code_version":"9.8.7"}` + "\n")
		files := do(answer.Content[0].Input.Content)
		for name, content := range map[string]string{"written": files.written, "copied": files.copied, "uid": files.uid} {
			if content == "" {
				continue
			}
			if err := os.WriteFile(filepath.Join(g.project(), name), []byte(content+"\n"), 0o644); err != nil {
				return 0, err
			}
		}
		g.say(last)
		return 0, nil
	}
}

func TestProve(t *testing.T) {
	honest := func(nonce string) proofFiles { return proofFiles{nonce, nonce, "10000"} }
	for _, tt := range []struct {
		name string
		play program
		says string // in the error; "" if proven
	}{
		{"an agent that works", proves(honest, good), ""},
		{"Write does nothing", proves(func(n string) proofFiles { return proofFiles{"", n, "10000"} }, good), "tool Write did nothing"},
		{"Bash does nothing", proves(func(n string) proofFiles { return proofFiles{n, "", "10000"} }, good), "tool Bash did nothing"},
		{"it writes something else", proves(func(n string) proofFiles { return proofFiles{"x", n, "10000"} }, good), "tool Write did nothing"},
		{"it runs as root", proves(func(n string) proofFiles { return proofFiles{n, n, "0"} }, good), "not as an ordinary user"},
		{"it leaves no user id", proves(func(n string) proofFiles { return proofFiles{n, n, ""} }, good), "not as an ordinary user"},
		{"no result", proves(honest, ""), "exit code 1"},
		{"it exits with 0 and does nothing", func(g guest) (int, error) { return 0, nil }, "exit code 1"},
		{"it fails", func(g guest) (int, error) { _, _ = g.Stderr.Write([]byte("no libc")); return 127, nil }, "no libc"},
		{"it breaks", func(guest) (int, error) { return 0, errFake }, errFake.Error()},
	} {
		t.Run(tt.name, func(t *testing.T) {
			// A restriction of the tools does not apply to the proof.
			r := newRig(t, options{play: tt.play, settings: func(s *Settings) { s.Agent.Tools = []string{"Read"} }})
			version, err := r.service.Prove(t.Context())
			if tt.says == "" {
				if err != nil || version != "9.8.7" {
					t.Errorf("version %q, %v", version, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v, want %q", err, tt.says)
			}
		})
	}
}

func TestAProofThatTimesOut(t *testing.T) {
	err := checkProof(nil, "nonce", agent.Outcome{ExitCode: dreamcore.ExitTimeout, TimedOut: true, Stderr: "still here"})
	if err == nil || !strings.Contains(err.Error(), proofLimit.String()) || !strings.Contains(err.Error(), "still here") || !strings.Contains(dreamcore.HintOf(err), "uptime") {
		t.Errorf("%v, %s", err, dreamcore.HintOf(err))
	}
}

func TestProveWithoutASandbox(t *testing.T) {
	r := newRig(t, options{})
	r.create = func(*sandboxtest.Fake) error { return errFake }
	if _, err := r.service.Prove(t.Context()); err == nil || !strings.Contains(err.Error(), errFake.Error()) {
		t.Errorf("%v", err)
	}
}

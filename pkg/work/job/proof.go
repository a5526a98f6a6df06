package job

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
)

// proofLimit bounds the proof, which takes seconds. The first start of the
// agent's program reads all of it from the disk, and a machine that is emulated
// by another one has been seen to take minutes.
const proofLimit = 5 * time.Minute

// Prove makes the agent write a file and run a command in a sandbox of its
// own, with a scripted model, and looks at what came of it. Pairs of agent and
// engine have been seen that exit with success at the first tool call without
// doing anything. It returns the version that the agent says it has.
func (s *Service) Prove(ctx context.Context) (version string, err error) {
	settings := *s.settings.Load()
	dir, err := os.MkdirTemp(s.parts.SocketDir, "proof-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	for _, sub := range []string{"project", "home", "gateway"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			return "", err
		}
		if err := os.Chown(filepath.Join(dir, sub), int(settings.Agent.UID), int(settings.Agent.GID)); err != nil {
			return "", err
		}
	}
	nonce := rand.Text()
	script, err := proofScript(nonce)
	if err != nil {
		return "", err
	}
	g := gateway.New(gateway.Config{Upstream: gateway.HandlerUpstream(replay.New(script)), Logger: s.log})
	defer g.Close(context.WithoutCancel(ctx))
	socket, err := g.Listen(filepath.Join(dir, "gateway"))
	if err != nil {
		return "", err
	}
	version, outcome, err := s.proofRun(ctx, settings, dir, socket)
	if err != nil {
		return "", err
	}
	return version, checkProof(filepath.Join(dir, "project"), nonce, outcome)
}

const proofDir = "/data/proof"

func (s *Service) proofRun(ctx context.Context, settings Settings, dir string, socket *gateway.Socket) (version string, o agent.Outcome, err error) {
	cfg := settings.Agent
	cfg.Tools, cfg.Model, cfg.Turns, cfg.Hosts = agent.DefaultTools, "", 0, nil
	sb, err := s.parts.Sandboxes.Create(ctx, sandbox.Spec{
		Root: settings.Root, Limits: settings.Limits,
		Mounts: []sandbox.Mount{
			{Source: filepath.Join(dir, "project"), Target: proofDir, Writable: true},
			{Source: filepath.Join(dir, "home"), Target: cfg.Home, Writable: true},
			{Source: settings.AgentFile, Target: cfg.Path},
			{Source: filepath.Join(dir, "gateway"), Target: filepath.Dir(cfg.Socket)},
		},
	})
	if err != nil {
		return "", o, err
	}
	defer func() {
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupLimit)
		defer cancel()
		err = errors.Join(err, sb.Close(cleanup))
	}()
	grant := socket.Grant(gateway.GrantOptions{Job: "proof"})
	defer grant.Revoke()
	o, err = cfg.Run(ctx, agent.Job{
		Sandbox: sb, Dir: proofDir, Prompt: "Prove that your tools work.", Token: grant.Token(),
		Session: agent.Session{ID: uuid.NewString()}, Limit: proofLimit,
		Emit: func(e dreamcore.Event) error {
			var init struct {
				Version string `json:"claude_code_version"`
			}
			if version == "" && json.Unmarshal(e, &init) == nil {
				version = init.Version
			}
			return nil
		},
	})
	return version, o, err
}

// proofScript is a model that writes the nonce with one tool and copies it
// with another.
func proofScript(nonce string) (*replay.Script, error) {
	type tool struct {
		Name  string            `json:"name"`
		Input map[string]string `json:"input"`
	}
	type turn struct {
		Text  string `json:"text,omitempty"`
		Tools []tool `json:"tools,omitempty"`
	}
	raw, err := json.Marshal(map[string][][]turn{"conversations": {{
		{Tools: []tool{{"Write", map[string]string{"file_path": proofDir + "/written", "content": nonce}}}},
		{Tools: []tool{{"Bash", map[string]string{"command": "cat written > copied; id -u > uid", "description": "Copy the file"}}}},
		{Text: "Done."},
	}}})
	if err != nil {
		return nil, err
	}
	return replay.Parse(raw)
}

func checkProof(dir, nonce string, o agent.Outcome) error {
	if o.TimedOut {
		return &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: fmt.Sprintf("the agent was not done with two tool calls after %v%s", proofLimit, cause(o)),
			Hint: "see what else this machine does with: uptime (a slow or busy one does not get done); then run the same command again",
		}
	}
	if !o.Success() {
		return fmt.Errorf("the agent ended with exit code %d%s", o.ExitCode, cause(o))
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for name, tool := range map[string]string{"written": "Write", "copied": "Bash"} {
		got, err := root.ReadFile(name)
		if err != nil || strings.TrimSpace(string(got)) != nonce {
			return fmt.Errorf("the agent says it is done, but its tool %s did nothing: %s is %q (%v)", tool, name, got, err)
		}
	}
	if uid, err := root.ReadFile("uid"); err != nil || strings.TrimSpace(string(uid)) == "0" {
		return fmt.Errorf("the agent runs as user %q, not as an ordinary one", uid)
	}
	return nil
}

package job

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

// proofLimit bounds the proof, which takes seconds. The first start of the
// agent's program reads all of it from the disk, and has been seen to take
// minutes on an emulated machine.
const proofLimit = 5 * time.Minute

// Prove makes the agent write a file and run a command in a workspace of its
// own, with a scripted model, and checks the result. Some pairs of agent and
// engine exit with success at the first tool call without doing anything. Prove
// returns the version that the agent reports.
func (s *Service) Prove(ctx context.Context) (version string, err error) {
	cfg := s.settings.Load().Agent
	dir, err := os.MkdirTemp(s.parts.Workspaces.SocketDir(), "proof-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	volumes, err := volume.Open(filepath.Join(dir, "volumes"), volume.Options{UID: int(cfg.UID), GID: int(cfg.GID)})
	if err != nil {
		return "", err
	}
	defer volumes.Close()
	if _, err := volumes.Create(volume.Data); err != nil {
		return "", err
	}
	user, id := dreamcore.UserID(uuid.NewString()), dreamcore.ProjectID(uuid.NewString())
	nonce, inside := rand.Text(), workspace.ProjectDir(user, id)
	script, err := proofScript(inside, nonce)
	if err != nil {
		return "", err
	}
	parts := workspace.Parts{
		Volumes: volumes, SocketDir: dir,
		Gateway: gateway.New(gateway.Config{Upstream: gateway.HandlerUpstream(replay.New(script)), Logger: s.log}),
	}
	defer parts.Gateway.Close(context.WithoutCancel(ctx))
	project, err := volumes.Project(user, id)
	if err != nil {
		return "", err
	}
	defer project.Close()
	home, err := volumes.Home(user, id)
	if err != nil {
		return "", err
	}
	defer home.Close()
	w, err := s.parts.Workspaces.OpenSeparate(ctx, parts, user)
	if err != nil {
		return "", err
	}
	defer func() {
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupLimit)
		defer cancel()
		err = errors.Join(err, w.Close(cleanup))
	}()
	cfg.Tools, cfg.Model, cfg.Turns, cfg.Hosts = agent.DefaultTools, "", 0, nil
	cfg.Home = path.Join(cfg.Home, string(id))
	version, outcome, err := proofRun(ctx, w, cfg, inside)
	if err != nil {
		return "", err
	}
	return version, checkProof(project.Root(), nonce, outcome)
}

func proofRun(ctx context.Context, w *workspace.Workspace, cfg agent.Config, dir string) (version string, o agent.Outcome, err error) {
	grant := w.Grant(gateway.GrantOptions{Job: "proof"})
	defer grant.Revoke()
	o, err = cfg.Run(ctx, agent.Start{
		Sandbox: w, Dir: dir, Token: grant.Token(), Session: agent.Session{ID: uuid.NewString()}, Limit: proofLimit,
	}, agent.Turn{
		Prompt: "Prove that your tools work.", Limit: proofLimit,
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

// proofScript returns the script of a model that writes the nonce with one tool
// and copies it with another.
func proofScript(dir, nonce string) (*replay.Script, error) {
	type tool struct {
		Name  string            `json:"name"`
		Input map[string]string `json:"input"`
	}
	type turn struct {
		Text  string `json:"text,omitempty"`
		Tools []tool `json:"tools,omitempty"`
	}
	raw, err := json.Marshal(map[string][][]turn{"conversations": {{
		{Tools: []tool{{"Write", map[string]string{"file_path": dir + "/written", "content": nonce}}}},
		{Tools: []tool{{"Bash", map[string]string{"command": "cat written > copied; id -u > uid", "description": "Copy the file"}}}},
		{Text: "Done."},
	}}})
	if err != nil {
		return nil, err
	}
	return replay.Parse(raw)
}

func checkProof(root *os.Root, nonce string, o agent.Outcome) error {
	if o.TimedOut {
		return &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: fmt.Sprintf("the agent did not finish two tool calls within %v%s", proofLimit, details(o)),
			Hint: "check the load of this machine with: uptime; then run the same command again",
		}
	}
	if !o.Success() {
		return fmt.Errorf("the agent ended with exit code %d%s", o.ExitCode, details(o))
	}
	for name, tool := range map[string]string{"written": "Write", "copied": "Bash"} {
		got, err := root.ReadFile(name)
		if err != nil || strings.TrimSpace(string(got)) != nonce {
			return fmt.Errorf("the agent reports success, but its tool %s did nothing: %s is %q (%v)", tool, name, got, err)
		}
	}
	if uid, err := root.ReadFile("uid"); err != nil || strings.TrimSpace(string(uid)) == "0" {
		return fmt.Errorf("the agent runs as user %q, not as an ordinary user", uid)
	}
	return nil
}

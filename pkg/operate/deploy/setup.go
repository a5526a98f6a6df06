package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
)

// Directories of the agent and the volumes in the state directory.
const (
	agentDir   = "agent"
	volumesDir = "volumes"
)

// chooseAgent decides which agent setup uses. If the unit hides that program
// from the service, it returns its path so that it is copied first: the
// vendor's installer puts it into a home directory.
func (p *Plan) chooseAgent() (copied string, err error) {
	found, err := p.findAgent()
	if err != nil || found == "" {
		return "", err
	}
	if hidden(found) {
		p.claude = AgentFile
		return found, nil
	}
	if p.o.Claude != "" {
		p.claude = found
	}
	return "", nil
}

// findAgent returns the agent that setup would use, or "" if setup installs one.
func (p *Plan) findAgent() (string, error) {
	if p.o.Claude != "" {
		bin, err := agent.Locate(p.o.Claude)
		return bin.Path, err
	}
	if bin, err := p.recorded(); err == nil {
		return bin.Path, nil
	}
	bin, err := agent.Locate("")
	if err != nil {
		return "", nil // setup installs one
	}
	return bin.Path, nil
}

func (p *Plan) recorded() (agent.Binary, error) {
	dir, err := p.at(filepath.Join(p.o.Settings.State, agentDir))
	if err != nil {
		return agent.Binary{}, err
	}
	return agent.Recorded(dir)
}

// setup returns the action that runs "dreamcore setup" of the installed program: secrets, volumes, agent.
func (p *Plan) setup() action {
	return action{name: setupStep, check: p.checkSetup, apply: p.runSetup, item: func() Item {
		return Item{Kind: "command", Note: "with the identity in " + credentialsVar, Commands: []string{p.setupCommand().String()}}
	}}
}

func (p *Plan) setupCommand() Command {
	args := []string{ProgramFile, "setup", "--yes", "--json", "--config", ConfigFile}
	if p.o.KeyFile != "" {
		args = append(args, "--anthropic-key-file", p.o.KeyFile)
	}
	if p.claude != "" {
		args = append(args, "--claude", p.claude)
	}
	c := p.command(args...)
	if p.o.KeyFile == "-" {
		c.Stdin = p.o.Stdin
	}
	return c
}

func (p *Plan) checkSetup(context.Context) (Status, error) {
	ready := p.hasSecret(secret.InternalSecret) && (p.hasSecret(secret.AnthropicSecret) || p.o.KeyFile == "" && p.o.Key == "")
	for _, v := range []string{volume.Data, volume.Global} {
		host, err := p.at(filepath.Join(p.o.Settings.State, volumesDir, v))
		if err != nil {
			return "", err
		}
		_, err = os.Stat(host)
		ready = ready && err == nil
	}
	bin, err := p.recorded()
	if err != nil || !ready || p.claude != "" && bin.Path != p.claude {
		return Ran, nil
	}
	return Unchanged, nil
}

func (p *Plan) runSetup(ctx context.Context) (detail string, err error) {
	err = p.withIdentity(ctx, func(env []string) error {
		cmd := p.setupCommand()
		cmd.Env = env
		if p.o.Key != "" { // only this command gets it
			cmd.Env = append(slices.Clone(env), secret.AnthropicKey+"="+p.o.Key)
		}
		out, err := p.o.Runner(ctx, cmd)
		if err != nil {
			return setupFault(err)
		}
		detail = describeSetup(out)
		return nil
	})
	return detail, err
}

// setupFault returns the error that setup printed, or that of the command if it printed none.
func setupFault(err error) error {
	failed, ok := errors.AsType[*CommandError](err)
	if !ok {
		return err
	}
	var fault error
	for line := range strings.Lines(failed.Stderr) { // the log is in it too
		var printed struct {
			Error string         `json:"error"`
			Code  dreamcore.Code `json:"code"`
			Hint  string         `json:"hint"`
		}
		if json.Unmarshal([]byte(line), &printed) == nil && printed.Code != "" {
			fault = &dreamcore.Error{Code: printed.Code, Message: printed.Error, Hint: printed.Hint}
		}
	}
	if fault != nil {
		return fault
	}
	return commandFault("set the service up", err)
}

// describeSetup returns the steps in which setup changed something.
func describeSetup(out []byte) string {
	var result struct {
		Steps []struct{ Name, Status string } `json:"steps"`
	}
	if json.Unmarshal(out, &result) != nil {
		return ""
	}
	var changed []string
	for _, s := range result.Steps {
		if s.Status != "exists" {
			changed = append(changed, s.Name+" "+s.Status)
		}
	}
	return strings.Join(changed, ", ")
}

// InternalSecret returns the secret that clients of the installed service send.
func (p *Plan) InternalSecret(ctx context.Context) (value string, err error) {
	err = p.withIdentity(ctx, func(env []string) error {
		cmd := p.command(ProgramFile, "secret", "show", secret.InternalSecret, secret.InternalKey, "--config", ConfigFile)
		cmd.Env = env
		out, err := p.o.Runner(ctx, cmd)
		value = strings.TrimSpace(string(out))
		if err != nil {
			return setupFault(err)
		}
		return nil
	})
	return value, err
}

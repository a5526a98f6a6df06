package deploy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// booted reports whether systemd is the init system of this machine, as sd_booted(3) does.
func (p *Plan) booted() bool {
	host, err := p.at("/run/systemd/system")
	if err != nil {
		return false
	}
	fi, err := os.Lstat(host)
	return err == nil && fi.IsDir()
}

// unitState is the state of the service in systemd.
type unitState struct {
	load, active, sub, file, result string
	stale                           bool // the unit file has changed since it was read
}

// state queries systemd. If systemd does not run, it returns the zero unitState.
func (p *Plan) state(ctx context.Context) (unitState, error) {
	var s unitState
	if !p.booted() {
		return s, nil
	}
	out, err := p.o.Runner(ctx, p.command("systemctl", "show", UnitName,
		"--property=LoadState,ActiveState,SubState,UnitFileState,NeedDaemonReload,Result"))
	if err != nil {
		return s, commandFault("ask systemd for the state of "+UnitName, err)
	}
	for line := range strings.Lines(string(out)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "LoadState":
			s.load = value
		case "ActiveState":
			s.active = value
		case "SubState":
			s.sub = value
		case "UnitFileState":
			s.file = value
		case "NeedDaemonReload":
			s.stale = value == "yes"
		case "Result":
			s.result = value
		}
	}
	return s, nil
}

// reload is the action that makes systemd read the unit.
type reload struct{ plan *Plan }

func (r *reload) name() string { return "systemd" }

func (r *reload) command() Command { return r.plan.command("systemctl", "daemon-reload") }

func (r *reload) item() Item {
	return Item{Kind: "command", Commands: []string{r.command().String()}}
}

func (r *reload) check(ctx context.Context) (Status, error) {
	s, err := r.plan.state(ctx)
	if err == nil && s.load == "loaded" && !s.stale && !r.plan.touched[unitStep] {
		return Unchanged, nil
	}
	return Ran, err
}

func (r *reload) apply(ctx context.Context) (string, error) {
	if _, err := r.plan.o.Runner(ctx, r.command()); err != nil {
		return "", commandFault("make systemd read the unit", err)
	}
	return "has read the unit", nil
}

// enable is the action that makes the service start at boot.
type enable struct{ plan *Plan }

func (e *enable) name() string { return "start with the machine" }

func (e *enable) command() Command { return e.plan.command("systemctl", "enable", UnitName) }

func (e *enable) item() Item {
	return Item{Kind: "command", Commands: []string{e.command().String()}}
}

func (e *enable) check(ctx context.Context) (Status, error) {
	s, err := e.plan.state(ctx)
	if err == nil && s.file == "enabled" {
		return Unchanged, nil
	}
	return Ran, err
}

func (e *enable) apply(ctx context.Context) (string, error) {
	if _, err := e.plan.o.Runner(ctx, e.command()); err != nil {
		return "", commandFault("enable "+UnitName, err)
	}
	return "enabled", nil
}

// start is the action that starts the service, or restarts it if a file that it
// reads at its start has changed since, and waits until it is healthy.
type start struct{ plan *Plan }

func (s *start) name() string { return "service" }

func (s *start) commands() []Command {
	return []Command{
		// Earlier failures must not make systemd refuse this start.
		s.plan.command("systemctl", "reset-failed", UnitName),
		s.plan.command("systemctl", "restart", UnitName),
	}
}

func (s *start) item() Item {
	it := Item{Kind: "command", Note: "then wait until " + s.plan.Address() + "/health answers, and run the gates"}
	for _, c := range s.commands() {
		it.Commands = append(it.Commands, c.String())
	}
	return it
}

// stampName is a file in the state directory with the stamp of the files that the
// service was last started with. It lets the next deploy finish one that was
// interrupted after it replaced the program and before it restarted the service.
const stampName = "deployed"

func (s *start) check(ctx context.Context) (Status, error) {
	p := s.plan
	for _, cause := range []string{programStep, configStep, identityStep, unitStep} {
		if p.touched[cause] {
			return Ran, nil
		}
	}
	state, err := p.state(ctx)
	if err != nil || state.active != "active" {
		return Ran, err
	}
	host, err := p.at(filepath.Join(p.o.Settings.State, stampName))
	if err != nil {
		return "", err
	}
	want, err := p.stamp()
	if err != nil {
		return "", err
	}
	if have, err := os.ReadFile(host); err != nil || string(have) != want {
		return Ran, nil
	}
	return Unchanged, nil
}

// stamp returns the digest of every file that the service reads at its start.
func (p *Plan) stamp() (string, error) {
	h := sha256.New()
	for _, path := range []string{ProgramFile, UnitFile, ConfigFile, p.credentialPath(), EnvironmentFile} {
		host, err := p.at(path)
		if err != nil {
			return "", err
		}
		f, err := os.Open(host)
		if errors.Is(err, fs.ErrNotExist) {
			_, _ = io.WriteString(h, path+" none\n")
			continue
		}
		if err != nil {
			return "", fileFault("read", host, err)
		}
		each := sha256.New()
		_, err = io.Copy(each, f)
		if err = errors.Join(err, f.Close()); err != nil {
			return "", fileFault("read", host, err)
		}
		_, _ = io.WriteString(h, path+" "+hex.EncodeToString(each.Sum(nil))+"\n")
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)) + "\n", nil
}

func (s *start) apply(ctx context.Context) (string, error) {
	p := s.plan
	stamp, err := p.stamp()
	if err != nil {
		return "", err
	}
	p.began = time.Now()
	commands := s.commands()
	// reset-failed fails for a unit that has never run; restart reports real faults.
	if _, err := p.o.Runner(ctx, commands[0]); err != nil && ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if _, err := p.o.Runner(ctx, commands[1]); err != nil {
		var failed *CommandError
		if !errors.As(err, &failed) {
			return "", err
		}
		return "", p.notStarted(ctx, failed.Error())
	}
	if err := p.awaitHealth(ctx); err != nil {
		return "", err
	}
	if err := p.install(filepath.Join(p.o.Settings.State, stampName), 0o600, strings.NewReader(stamp)); err != nil {
		return "", err
	}
	return "healthy at " + p.Address(), nil
}

// notStarted returns the error for a service that does not become healthy, with
// the end of its log.
func (p *Plan) notStarted(ctx context.Context, why string) error {
	out, err := p.o.Runner(context.WithoutCancel(ctx), p.command(
		"journalctl", "--unit", UnitName, "--since", fmt.Sprintf("@%d", p.began.Unix()), "--lines", "15", "--no-pager", "--output", "cat"))
	log := strings.TrimSpace(string(out))
	if err != nil || log == "" {
		log = "its log is empty"
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeSetup, Reason: ReasonNotStarted, Message: "the service does not start: " + why, Err: errors.New(log),
		Hint: "fix the cause; the log: journalctl -u " + dreamcore.AppName,
	}
}

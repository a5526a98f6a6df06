package deploy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// booted reports whether systemd is the init system of this machine, as sd_booted(3) does.
func (p *Plan) booted() bool {
	_, fi, err := p.lstat("/run/systemd/system")
	return err == nil && fi != nil && fi.IsDir()
}

// state returns properties of the service in systemd; none if systemd does not run.
func (p *Plan) state(ctx context.Context) (map[string]string, error) { return p.stateOf(ctx, UnitName) }

// states returns the properties of both units, the socket first.
func (p *Plan) states(ctx context.Context) (all [2]map[string]string, err error) {
	for i, name := range []string{SocketName, UnitName} {
		if all[i], err = p.stateOf(ctx, name); err != nil {
			return all, err
		}
	}
	return all, nil
}

func (p *Plan) stateOf(ctx context.Context, unit string) (map[string]string, error) {
	if !p.booted() {
		return nil, nil
	}
	out, err := p.o.Runner(ctx, p.command("systemctl", "show", unit,
		"--property=LoadState,ActiveState,SubState,UnitFileState,NeedDaemonReload,Result"))
	if err != nil {
		return nil, commandFault("ask systemd for the state of "+unit, err)
	}
	properties := map[string]string{}
	for line := range strings.Lines(string(out)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		properties[key] = value
	}
	return properties, nil
}

// systemctl returns the action that runs systemctl unless the state of both units
// is already the desired one. purpose is for errors, result for the operator.
func (p *Plan) systemctl(name, purpose, result string, desired func(state map[string]string) bool, args ...string) action {
	c := p.command(append([]string{"systemctl"}, args...)...)
	return action{
		name: name,
		item: func() Item { return Item{Kind: "command", Commands: []string{c.String()}} },
		check: func(ctx context.Context) (Status, error) {
			all, err := p.states(ctx)
			if err == nil && desired(all[0]) && desired(all[1]) {
				return Unchanged, nil
			}
			return Ran, err
		},
		apply: func(ctx context.Context) (string, error) {
			if _, err := p.o.Runner(ctx, c); err != nil {
				return "", commandFault(purpose, err)
			}
			return result, nil
		},
	}
}

// reload returns the action that makes systemd read the units.
func (p *Plan) reload() action {
	return p.systemctl("systemd", "make systemd read the units", "has read the units", func(state map[string]string) bool {
		return state["LoadState"] == "loaded" && state["NeedDaemonReload"] != "yes" && !p.touched[socketStep] && !p.touched[unitStep]
	}, "daemon-reload")
}

// enable returns the action that makes the service start at boot.
func (p *Plan) enable() action {
	return p.systemctl("start with the machine", "enable "+UnitName, "enabled", func(state map[string]string) bool {
		return state["UnitFileState"] == "enabled"
	}, "enable", SocketName, UnitName)
}

// start returns the action that starts the service, or restarts it if a file that
// it reads at its start has changed since, and waits until it is healthy.
func (p *Plan) start() action {
	return action{name: "service", check: p.checkStarted, apply: p.startService, item: func() Item {
		it := Item{Kind: "command", Note: "then wait until " + p.Address() + "/health answers, and run the gates"}
		for _, c := range p.startCommands() {
			it.Commands = append(it.Commands, c.String())
		}
		return it
	}}
}

func (p *Plan) startCommands() []Command {
	commands := []Command{
		// Earlier failures must not make systemd refuse this start.
		p.command("systemctl", "reset-failed", SocketName, UnitName),
		p.command("systemctl", "restart", UnitName), // starts the sockets, too
	}
	if p.rebind {
		commands = slices.Insert(commands, 1, p.command("systemctl", "stop", SocketName, UnitName))
	}
	return commands
}

// stampName is a file in the state directory with the stamps of the files that the
// service was last started with. It lets the next deploy finish one that was
// interrupted after it replaced the program and before it restarted the service.
const stampName = "deployed"

func (p *Plan) checkStarted(ctx context.Context) (Status, error) {
	all, err := p.states(ctx)
	if err != nil {
		return Ran, err
	}
	socket, service := all[0]["ActiveState"] == "active", all[1]["ActiveState"] == "active"
	have, _ := p.readFile(filepath.Join(p.o.Settings.State, stampName)) // if it cannot be read, the service is restarted
	want, err := p.stamp()
	if err != nil {
		return "", err
	}
	// The first line is that of the sockets.
	haveSocket, _, _ := strings.Cut(string(have), "\n")
	wantSocket, _, _ := strings.Cut(want, "\n")
	fits := haveSocket == wantSocket && !p.touched[socketStep]
	p.rebind = socket && !fits || service && !socket
	for _, cause := range []string{programStep, configStep, identityStep, socketStep, unitStep} {
		if p.touched[cause] {
			return Ran, nil
		}
	}
	if !socket || !service || string(have) != want {
		return Ran, nil
	}
	return Unchanged, nil
}

// stamp returns the digests of the socket unit, and of every file that the service
// reads at its start, one a line.
func (p *Plan) stamp() (string, error) {
	socket, err := p.digest(SocketFile)
	if err != nil {
		return "", err
	}
	service, err := p.digest(ProgramFile, UnitFile, ConfigFile, p.credentialPath(), EnvironmentFile)
	return "socket " + socket + "\n" + service + "\n", err
}

// digest returns the digest of files, some of which may be missing.
func (p *Plan) digest(paths ...string) (string, error) {
	h := sha256.New()
	for _, path := range paths {
		host, err := p.at(path)
		if err != nil {
			return "", err
		}
		each, err := digest(host)
		if errors.Is(err, fs.ErrNotExist) {
			each, err = "none", nil
		}
		if err != nil {
			return "", err
		}
		_, _ = io.WriteString(h, path+" "+each+"\n") // a hash takes any text
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

func (p *Plan) startService(ctx context.Context) (string, error) {
	stamp, err := p.stamp()
	if err != nil {
		return "", err
	}
	p.began = time.Now()
	// reset-failed fails for a unit that has never run; restart reports real faults.
	commands := p.startCommands()
	if _, err := p.o.Runner(ctx, commands[0]); err != nil && ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	for _, c := range commands[1:] {
		if _, err := p.o.Runner(ctx, c); err != nil {
			failed, ok := errors.AsType[*CommandError](err)
			if !ok {
				return "", err
			}
			return "", p.notStarted(ctx, failed.Error())
		}
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
		"journalctl", "--unit", SocketName, "--unit", UnitName, "--since", fmt.Sprintf("@%d", p.began.Unix()), "--lines", "15", "--no-pager", "--output", "cat"))
	log := strings.TrimSpace(string(out))
	if err != nil || log == "" {
		log = "its log is empty"
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeSetup, Reason: ReasonNotStarted, Message: "the service does not start: " + why, Err: errors.New(log),
		Hint: "fix the cause; the log: journalctl -u " + dreamcore.AppName,
	}
}

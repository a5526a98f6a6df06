package main

import (
	"context"
	"log/slog"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/engine"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/gvisor"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/runc"
)

// newProvider makes sandboxes with the engine that the operator has named, and
// with no other: one that cannot be had is an error.
func newProvider(ctx context.Context, s state, exe string, log *slog.Logger) (*engine.Provider, error) {
	switch s.cfg.Runtime {
	case gvisor.Name:
		return gvisor.New(ctx, gvisor.Config{Exe: exe, Dir: s.path(runDir), Logger: log})
	case runc.Name:
		return runc.New(ctx, runc.Config{Exe: exe, Dir: s.path(runDir), UID: uint32(s.cfg.UID), GID: uint32(s.cfg.GID), Logger: log})
	}
	return nil, &dreamcore.Error{
		Code: dreamcore.CodeInvalid, Message: "there is no engine called " + s.cfg.Runtime,
		Hint: "use --runtime " + gvisor.Name + " or --runtime " + runc.Name,
	}
}

// engineTitle is an engine as people write it.
func engineTitle(runtime string) string {
	if runtime == gvisor.Name {
		return "gVisor"
	}
	return runtime
}

// engineNeeds is the hint for sandboxes that do not work.
func engineNeeds(runtime string) string {
	needs := "root with cgroups, and user namespaces"
	if runtime == gvisor.Name {
		needs = "a kernel of 4.14 or later, and root with cgroups or else user namespaces"
	}
	return "see the cause above, and run: dreamcore doctor --runtime " + runtime + "; " + engineTitle(runtime) + " needs " + needs
}

// unlimited says what cannot be limited here; "" for nothing.
func unlimited() string {
	names := engine.Unlimited()
	if len(names) == 0 {
		return ""
	}
	return "without root, these limits of sandboxes cannot be enforced: " + strings.Join(append(names, "disk"), ", ")
}

// warnUnlimited tells what cannot be limited, once for each command.
func (a *app) warnUnlimited() {
	if what := unlimited(); what != "" {
		a.io.Stderr().Warning(strings.ToUpper(what[:1]) + what[1:])
	}
}

// checkUnlimited refuses to serve strangers without limits, unless the
// operator has said so.
func (a *app) checkUnlimited(allowed bool) error {
	what := unlimited()
	if what == "" {
		return nil
	}
	if !allowed {
		return &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: what + "; one sandbox can take the whole machine",
			Hint: "run the command with sudo, or accept it with serve --allow-unlimited (allow_unlimited: true in the configuration)",
		}
	}
	a.warnUnlimited()
	return nil
}

package daemon

import (
	"context"
	"log/slog"
	"os"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/engine"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/gvisor"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/runc"
)

// newProvider starts the engine that the operator has configured, and never
// another one: an engine that is not available is an error.
func (s *State) newProvider(ctx context.Context, log *slog.Logger) (*engine.Provider, error) {
	exe, err := os.Executable() // engines start this program in other roles
	if err != nil {
		return nil, err
	}
	switch s.Config.Runtime {
	case gvisor.Name:
		return gvisor.New(ctx, gvisor.Config{Exe: exe, Dir: s.Path(RunDir), Logger: log})
	case runc.Name:
		return runc.New(ctx, runc.Config{Exe: exe, Dir: s.Path(RunDir), UID: uint32(s.Config.UID), GID: uint32(s.Config.GID), Logger: log})
	}
	return nil, &dreamcore.Error{
		Code: dreamcore.CodeInvalid, Reason: ReasonEngine, Message: "there is no engine called " + s.Config.Runtime,
		Hint: "the engines are " + gvisor.Name + " and " + runc.Name,
	}
}

// EngineTitle returns the name of an engine for people.
func EngineTitle(runtime string) string {
	if runtime == gvisor.Name {
		return "gVisor"
	}
	return runtime
}

// engineNeeds returns the hint for sandboxes that do not work.
func engineNeeds(runtime string) string {
	needs := "root with cgroups, and user namespaces"
	if runtime == gvisor.Name {
		needs = "a kernel of 4.14 or later, and root with cgroups or else user namespaces"
	}
	return "see the cause above; " + EngineTitle(runtime) + " needs " + needs
}

// Unlimited names the limits of sandboxes that this process cannot enforce, in
// a sentence for people. It returns "" if it can enforce all.
func Unlimited() string {
	names := engine.Unlimited()
	if len(names) == 0 {
		return ""
	}
	return "without root, these limits of sandboxes cannot be enforced: " + strings.Join(append(names, "disk"), ", ")
}

// CheckUnlimited refuses to serve the programs of strangers without limits, unless the
// operator has allowed it.
func CheckUnlimited(allowed bool) error {
	what := Unlimited()
	if what == "" || allowed {
		return nil
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeSetup, Message: what + "; one sandbox can take the whole machine",
		Hint: "run the command with sudo, or accept it with serve --allow-unlimited (allow_unlimited: true in the configuration)",
	}
}

package main

import (
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// warnUnlimited warns of the limits that cannot be enforced, once for each
// command.
func (a *app) warnUnlimited() {
	if what := daemon.Unlimited(); what != "" {
		a.io.Stderr().Warning(strings.ToUpper(what[:1]) + what[1:])
	}
}

// checkUnlimited refuses to serve the programs of strangers without limits,
// unless the operator has allowed it.
func (a *app) checkUnlimited(allowed bool) error {
	what := daemon.Unlimited()
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

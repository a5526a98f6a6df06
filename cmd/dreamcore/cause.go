package main

import (
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// maxCause bounds the message and the details of one cause, in characters.
const maxCause = 600

// showCauses prints the causes of a failure and returns the last hint among
// them.
func showCauses(p *term.Printer, causes []daemon.Cause) (hint string) {
	for _, c := range causes {
		p.Warning(term.Truncate(term.Clean(c.Message), maxCause), term.Truncate(term.Clean(strings.Join(c.Details, " · ")), maxCause))
		if c.Hint != "" {
			hint = c.Hint
		}
	}
	return hint
}

// nextCommand returns what an operator can do about a failure.
func nextCommand(o client.Outcome) string {
	switch o.Code {
	case dreamcore.FailAuth:
		return "set a valid key with: dreamcore setup --rotate anthropic-api-key"
	case dreamcore.FailNetwork, dreamcore.FailAPITimeout:
		return "check the connection to the model API (dreamcore doctor names it), then run the same command again"
	case dreamcore.FailRateLimit:
		return "wait a minute and run the same command again; see what was spent with: dreamcore usage"
	case dreamcore.FailDisk:
		return "free space on the disk of the state directory (df -h shows it; dreamcore image prune removes images), or use another one with --state DIR"
	case dreamcore.FailQuota:
		return "remove files of the user's projects, or raise project_mib, project_files or disk_mib"
	case dreamcore.FailSandbox:
		return "run: dreamcore gate sandbox-io isolation (to see whether sandboxes work), or dreamcore doctor"
	case dreamcore.FailNoGame:
		return "describe the game in the prompt, and run the command again"
	case dreamcore.FailCLITimeout:
		return "allow more time: run the same command with --timeout 10m"
	case dreamcore.FailCLIKilled:
		return "give the sandbox more memory with the setting memory_mib, then run the same command again"
	}
	if o.Recoverable {
		return "run the same command again"
	}
	return "for more details, run it again with --log-level debug, or see the log of the service"
}

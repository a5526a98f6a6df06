// Package acceptance plays games in a headless browser and says whether they
// work. The browser runs inside the sandbox in which the game was made, so a
// hostile page is where the hostile agent was.
//
// Two programs take part, both of them dreamcore-check (see cmd/dreamcore-check):
// a file server that runs as the agent's user, because only that user may read
// the project, and the driver with the browser, which run as a user of their own.
// The agent cannot become that user: it can neither end the browser, nor speak for
// it. Output of the sandbox is bounded and checked all the same, and a
// browser that breaks a rule, dies, or takes too long gives no verdict. No
// verdict never counts as a game that does not play.
//
// # Limits of the browser
//
// The browser counts towards the limits of the user's own sandbox, as the agent
// does; there is no second budget. It takes up to 256 MiB and a hundred threads,
// and when the sandbox is out of memory, the engine ends all of it, with the
// agent. So an agent must not pay for a browser that it does not need yet:
//
//   - Start waits for Settings.Delay before it starts the browser, or for the
//     check if that comes first. The agent's own start takes the most CPU time,
//     and no game is there before.
//   - In a sandbox with less than AheadMemory, the browser starts only when the
//     agent has ended.
//   - The driver limits the heap of scripts. RLIMIT_AS would not do: a browser
//     reserves address space by the terabyte.
//
// The number of processes is limited for each user inside, so neither can take
// those of the other.
package acceptance

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/rootfs"
)

// Settings of a check.
type Settings struct {
	UID, GID uint32        // of the agent: they may read the project
	Limit    time.Duration // of one check, from the request to the verdict
	Hosts    []string      // that a page may ask for
	Pixels   bool          // pictures are wanted
	Memory   int64         // limit of the sandbox in bytes; 0 means the default
	Delay    time.Duration // how long Start waits before it starts the browser
	Logger   *slog.Logger  // may be nil
}

// DefaultDelay is the Delay of jobs: the agent has started by then.
const DefaultDelay = 5 * time.Second

// AheadMemory is the memory in bytes that a sandbox must have for a browser that
// runs beside the agent.
const AheadMemory = 1 << 30

const (
	// startLimit bounds the start of the browser, and of the file server. On a
	// machine that is busy, sandboxes are the first to wait for a processor. The
	// caller of a check may bound it more.
	startLimit = time.Minute
	// grace is how long the report may be late: the driver ends a check at its
	// limit by itself, and then has to say so.
	grace = 2 * time.Second
	// endLimit bounds the end of the processes of a check.
	endLimit = 10 * time.Second
	// maxHosts bounds the hosts of a request; the driver takes no more.
	maxHosts = 64
)

// The reasons for which a check has no verdict.
const (
	ReasonStart   dreamcore.Reason = "acceptance.start"   // the browser does not start, or is not there
	ReasonDied    dreamcore.Reason = "acceptance.died"    // the browser has ended during the check
	ReasonLimit   dreamcore.Reason = "acceptance.limit"   // no verdict within the limit
	ReasonOutput  dreamcore.Reason = "acceptance.output"  // the output of the sandbox is not a report
	ReasonRefused dreamcore.Reason = "acceptance.refused" // the driver could not check the game
	ReasonServe   dreamcore.Reason = "acceptance.serve"   // the file server does not start
	ReasonSandbox dreamcore.Reason = "acceptance.sandbox" // the sandbox has ended
	ReasonMissing dreamcore.Reason = "acceptance.missing" // there is no browser, or no driver for it
)

// unknown returns the error of a check without a verdict.
func unknown(reason dreamcore.Reason, message string, err error) error {
	return &dreamcore.Error{Code: dreamcore.CodeInternal, Reason: reason, Message: message, Err: err}
}

// noVerdict is the sentence for a check whose error is not one of this package.
const noVerdict = "the check has no verdict"

// Sentence returns why a check has no verdict, for clients: one of few sentences,
// without the cause, which is for operators.
func Sentence(err error) string {
	for {
		e, ok := errors.AsType[*dreamcore.Error](err)
		if !ok {
			return noVerdict
		}
		if strings.HasPrefix(string(e.Reason), "acceptance.") {
			return e.Message
		}
		err = e.Err
	}
}

// browserUser returns the user of the browser.
func (s Settings) browserUser() sandbox.Owner { return rootfs.Browser(s.UID, s.GID) }

func (s Settings) logger() *slog.Logger {
	if s.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Logger
}

// ahead reports whether the browser may run beside the agent.
func (s Settings) ahead() bool {
	return sandbox.Limits{MemoryBytes: s.Memory}.WithDefaults().MemoryBytes >= AheadMemory
}

// environment is that of both programs. The driver gives the browser its own.
var environment = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/tmp", "TMPDIR=/tmp", "LANG=C.UTF-8"}

// command returns a run of dreamcore-check inside.
func command(user sandbox.Owner, args ...string) sandbox.Command {
	return sandbox.Command{Args: append([]string{rootfs.CheckPath}, args...), Env: environment, Dir: "/", UID: user.UID, GID: user.GID}
}

// limitError is the error of a check that took too long.
func limitError(d time.Duration) error {
	return unknown(ReasonLimit, fmt.Sprintf("the check did not end within its limit of %s", d), nil)
}

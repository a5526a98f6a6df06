package main

import (
	"errors"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
	"github.com/notef-neighbor/dreamcore/pkg/model/upstream"
	"github.com/notef-neighbor/dreamcore/pkg/operate/deploy"
	"github.com/notef-neighbor/dreamcore/pkg/operate/doctor"
	"github.com/notef-neighbor/dreamcore/pkg/operate/gate"
	"github.com/notef-neighbor/dreamcore/pkg/operate/setup"
	"github.com/notef-neighbor/dreamcore/pkg/work/archive"
	"github.com/notef-neighbor/dreamcore/pkg/work/prompt"
)

// sendSecret is what to do if the server does not accept the secret.
const sendSecret = "pass the server's secret with --secret-file or MODAL_INTERNAL_SECRET; on the server: dreamcore secret show modal-internal-secret"

// deployAgain is what to do once the cause of a failed deploy is fixed.
const deployAgain = "then run: dreamcore deploy"

// reasonHints are the commands and flags of this program that help with an
// error, by the error's reason. Packages do not know the command line; their
// own hints refer to the system and the input only.
var reasonHints = map[dreamcore.Reason]string{
	client.ReasonAddress:  "check the address in --endpoint or MODAL_ENDPOINT",
	client.ReasonEndpoint: "pass --endpoint URL or set MODAL_ENDPOINT",
	client.ReasonRedirect: "if that is your server, pass its address with --endpoint",
	client.ReasonRefused:  "start the server with: dreamcore serve",
	client.ReasonSecret:   sendSecret,
	client.ReasonTimeout:  "allow more time with --timeout",

	gate.ReasonNoDeepChecks: "check such a server with: dreamcore gate --all",
	gate.ReasonNoDiskBound:  "on the server, run as root with disk_mib set; or accept it here with DREAMCORE_ALLOW_UNLIMITED=true",
	gate.ReasonNoGVisor:     "run the server with gVisor; or accept less isolation with ALLOW_NON_GVISOR=true",
	gate.ReasonSecret:       sendSecret,
	gate.ReasonSelection:    "all of them: dreamcore gate --all --deep",

	daemon.ReasonEngine:     "set it with --runtime",
	daemon.ReasonInjectKey:  "see the keys with: dreamcore secret list",
	daemon.ReasonListen:     "set it with --listen HOST:PORT",
	daemon.ReasonNoInjected: "create it: dreamcore secret create NAME KEY=value (or omit it from --inject)",
	daemon.ReasonNoKey:      "run: dreamcore setup --anthropic-key-file FILE (or serve --model-script demo)",
	daemon.ReasonSandboxes:  "for more details, run: dreamcore doctor (with the same --runtime)",
	daemon.ReasonState:      "set it with --state DIR",

	gateway.ReasonNoKey:      "run: dreamcore setup --anthropic-key-file FILE",
	upstream.ReasonSecretKey: "see the keys with: dreamcore secret list",
	prompt.ReasonVolume:      "see its files with: dreamcore volume ls dreamcore-global",

	archive.ReasonAboveProjects: "for all projects with their versions: dreamcore export --all DIR, dreamcore import DIR",
	archive.ReasonDirectory:     "name a directory to copy it to",
	archive.ReasonExists:        "replace it with --force",

	setup.ReasonAgent:   "run: dreamcore gate sandbox-io isolation (to see whether sandboxes work), or name another program with --claude PATH",
	setup.ReasonKeyFile: "name a readable file with --anthropic-key-file FILE",
	setup.ReasonNoKey:   "set ANTHROPIC_API_KEY, or name a file with --anthropic-key-file FILE",
	setup.ReasonRotate:  "for others run: dreamcore secret create --force",

	doctor.ReasonAgent:   "run: dreamcore setup",
	doctor.ReasonListen:  "choose another address with --listen HOST:PORT",
	doctor.ReasonNoKey:   "run: dreamcore setup --anthropic-key-file FILE",
	doctor.ReasonNotRoot: "run: sudo dreamcore doctor (serve then needs no --allow-unlimited)",
	doctor.ReasonPrompts: "run: dreamcore prompts check",
	doctor.ReasonState:   "choose a directory on another disk with --state DIR",

	deploy.ReasonAccount:    deployAgain,
	deploy.ReasonCommand:    deployAgain,
	deploy.ReasonFile:       deployAgain,
	deploy.ReasonHidden:     "then name the new path in the configuration or with the flag",
	deploy.ReasonIdentity:   deployAgain,
	deploy.ReasonListen:     "set it with --listen HOST:PORT",
	deploy.ReasonNeedsRoot:  "run: sudo dreamcore deploy",
	deploy.ReasonNoKey:      "run: dreamcore deploy --anthropic-key-file FILE (or, for a demo: dreamcore deploy --model-script demo)",
	deploy.ReasonNoSystemd:  "run: dreamcore setup && dreamcore serve (under another supervisor, with your --listen: serve stays in the foreground, logs to standard error and ends on SIGTERM)",
	deploy.ReasonNotStarted: deployAgain,
	deploy.ReasonOccupied:   deployAgain,
	deploy.ReasonReadOnly:   "or prepare an image with --root DIR",
	deploy.ReasonRoot:       "see: dreamcore deploy --help",
	deploy.ReasonState:      "name it with --state DIR",

	// The hint of the error suffices.
	client.ReasonTLS: "", gateway.ReasonAddress: "", replay.ReasonScript: "", upstream.ReasonCAFile: "",
	upstream.ReasonModels: "", upstream.ReasonNone: "", prompt.ReasonFile: "", prompt.ReasonFiles: "",
	upstream.ReasonCredential: "", archive.ReasonLocal: "", archive.ReasonTooLarge: "", deploy.ReasonSettings: "",
}

// hintOf returns what to do about err: the hint of the error itself, followed
// by the command or flag for its reason.
func hintOf(err error) string {
	hint, command := dreamcore.HintOf(err), reasonHints[dreamcore.ReasonOf(err)]
	if hint == "" || command == "" {
		return hint + command
	}
	return hint + "; " + command
}

// As makes the first Error of the chain one with the hint of the command line.
func (e redacted) As(target any) bool {
	to, ok := target.(**dreamcore.Error)
	if !ok {
		return false
	}
	first, ok := errors.AsType[*dreamcore.Error](e.err)
	if !ok {
		return false
	}
	copied := *first
	copied.Hint = hintOf(e.err)
	*to = &copied
	return true
}

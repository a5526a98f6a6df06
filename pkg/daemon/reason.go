package daemon

import "github.com/notef-neighbor/dreamcore/pkg/dreamcore"

// Reasons of errors. The hint of an error names no command and no flag; the
// command line adds them.
const (
	ReasonEngine     dreamcore.Reason = "daemon.engine"      // no such engine
	ReasonInherited  dreamcore.Reason = "daemon.inherited"   // a socket of the parent process is not the configured one
	ReasonInjectKey  dreamcore.Reason = "daemon.inject_key"  // an injection selects no value of its secret
	ReasonListen     dreamcore.Reason = "daemon.listen"      // the address of the service is in use
	ReasonNoInjected dreamcore.Reason = "daemon.no_injected" // the secret of an injection cannot be read
	ReasonNoKey      dreamcore.Reason = "daemon.no_key"      // of the model API
	ReasonSandboxes  dreamcore.Reason = "daemon.sandboxes"   // sandboxes do not work
	ReasonWebhook    dreamcore.Reason = "daemon.webhook"     // the signing key of a webhook is missing or malformed
	ReasonState      dreamcore.Reason = "daemon.state"       // the state directory cannot be used, but another one could
	ReasonNoState    dreamcore.Reason = "daemon.no_state"    // the directory is not a state directory
)

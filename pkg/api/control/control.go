// Package control is how commands on this machine talk with the service that
// runs on the same state directory: HTTP over a socket that only the owner of
// the state directory can reach. It shows and ends sandboxes and runs programs
// in them.
//
//	GET  /sandboxes                 → {"sandboxes":[…]}
//	POST /sandboxes/NAME/stop       → {}
//	GET  /sandboxes/NAME/logs       → the events of the last job in it, a line each;
//	                                  with ?follow=1 to the job's end
//	POST /sandboxes/NAME/exec?arg=… → the input in the body, frames back
//	POST /previews?user=&project=&for= → {"url","expires"}
//
// Frames are lines of JSON: {"stdout":"<base64>"}, {"stderr":"<base64>"}, and
// one last {"exit":0} or {"error":"…"}. Errors before that have the status of
// their code and {"error","code","hint"}.
package control

import (
	"context"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

// SocketName is the file name of the socket in its directory.
const SocketName = "control.sock"

// Sandboxes is what a Server gives access to. Unknown names have CodeNotFound.
type Sandboxes interface {
	Sandboxes() []workspace.Info
	StopSandbox(ctx context.Context, name string) error
	// Exec runs a program in the sandbox, as the user of agents, until it ends
	// or ctx does. The streams of cmd are set; its user is not.
	Exec(ctx context.Context, name string, cmd sandbox.Command) (sandbox.Exit, error)
	// SandboxJobs are the jobs that ran in the sandbox last, the newest last.
	SandboxJobs(name string) ([]string, error)
}

// Previews makes links to games; nil is a service without previews.
type Previews interface {
	Link(user dreamcore.UserID, project dreamcore.ProjectID, lifetime time.Duration) (address string, expires time.Time, err error)
}

// link is an address of a game and when it stops to work.
type link struct {
	URL     string    `json:"url"`
	Expires time.Time `json:"expires"`
}

// frame is a piece of what a program wrote, or its end.
type frame struct {
	Stdout []byte `json:"stdout,omitempty"`
	Stderr []byte `json:"stderr,omitempty"`
	Exit   *int   `json:"exit,omitempty"`
	Error  string `json:"error,omitempty"`
}

// fault is an error before anything else was sent.
type fault struct {
	Error string         `json:"error"`
	Code  dreamcore.Code `json:"code"`
	Hint  string         `json:"hint,omitempty"`
}

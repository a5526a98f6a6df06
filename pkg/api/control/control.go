// Package control lets commands on the host control the service that runs on
// the same state directory, by HTTP over a socket that only the owner of the
// state directory can access. It lists and stops sandboxes, runs programs in
// them, and creates links to games.
//
//	GET  /sandboxes                 → {"sandboxes":[…]}
//	POST /sandboxes/NAME/stop       → {}
//	GET  /sandboxes/NAME/logs       → the events of its last job, one per line;
//	                                  with ?follow=1 until the job's end
//	POST /sandboxes/NAME/exec?arg=… → input in the request body, frames in the response
//	POST /previews?user=&project=&for= → {"url","expires"}
//
// Frames are lines of JSON: {"stdout":"<base64>"}, {"stderr":"<base64>"}, and
// finally {"exit":0} or {"error":"…"}. Errors before the first frame have the HTTP
// status of their code and the body {"error","code","hint"}.
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

// Sandboxes are the sandboxes that a Server controls. Its methods return
// CodeNotFound for unknown names.
type Sandboxes interface {
	Sandboxes() []workspace.Info
	StopSandbox(ctx context.Context, name string) error
	// Exec runs a program in the sandbox as the agent's user, until it ends or
	// ctx is done. The streams of cmd are set; its user is not.
	Exec(ctx context.Context, name string, cmd sandbox.Command) (sandbox.Exit, error)
	// SandboxJobs returns the latest jobs of the sandbox, the newest last.
	SandboxJobs(name string) ([]string, error)
}

// Previews creates links to games.
type Previews interface {
	Link(user dreamcore.UserID, project dreamcore.ProjectID, lifetime time.Duration) (address string, expires time.Time, err error)
}

// link is the address of a game and its expiry.
type link struct {
	URL     string    `json:"url"`
	Expires time.Time `json:"expires"`
}

// frame is a piece of a program's output, or its end.
type frame struct {
	Stdout []byte `json:"stdout,omitempty"`
	Stderr []byte `json:"stderr,omitempty"`
	Exit   *int   `json:"exit,omitempty"`
	Error  string `json:"error,omitempty"`
}

// fault is the body of an error response.
type fault struct {
	Error string         `json:"error"`
	Code  dreamcore.Code `json:"code"`
	Hint  string         `json:"hint,omitempty"`
}

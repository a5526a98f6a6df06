// Package control lets commands on the host control the service that runs on
// the same state directory, by HTTP over a socket that only the owner of the
// state directory can access. It lists and stops sandboxes, runs programs in
// them, creates links to games, lists, shows, cancels and repeats jobs, and blocks
// and deletes users and projects.
//
//	GET  /sandboxes                 → {"sandboxes":[…]}
//	POST /sandboxes/NAME/stop       → {}
//	GET  /sandboxes/NAME/logs       → the events of its last job, one per line;
//	                                  with ?follow=1 until the job's end
//	POST /sandboxes/NAME/exec?arg=… → input in the request body, frames in the response;
//	                                  with &terminal=80x24 on a terminal, and the input
//	                                  in frames too
//	GET  /jobs?user_id=&project_id=&state=&since=&until=&limit=&cursor= → {"jobs":[…],"next"}
//	POST /jobs                       → {"id"}; the body is that of generate_game, and "language"
//	GET  /jobs/ID                    → the record of a job
//	GET  /jobs/ID/events?after=N     → its events, one per line; with &follow=1 until its end
//	POST /jobs/ID/cancel             → its record
//	POST /jobs/ID/retry              → {"id"} of a new job with the same request
//	POST /previews?user=&project=&for= → {"url","expires"}
//	DELETE /users/USER, /users/USER/projects/PROJECT → an account.Report
//	POST /users/USER/block?reason=, /users/USER/unblock → an account.Blocked
//
// Frames are lines of JSON: {"stdout":"<base64>"}, {"stderr":"<base64>"}, and
// finally {"exit":0} or {"error":"…"}. Those to a terminal are {"keys":"<base64>"} and
// {"window":{"columns":80,"rows":24}}. Errors before the first frame have the HTTP
// status of their code and the body {"error","code","reason","hint"}.
package control

import (
	"context"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

// ReasonNotRunning is the reason of errors if no service runs on the state directory.
const ReasonNotRunning dreamcore.Reason = "control.not_running"

// SocketName is the file name of the socket in its directory.
const SocketName = "control.sock"

// Sandboxes are the sandboxes that a Server controls. The methods return
// CodeNotFound for unknown names.
type Sandboxes interface {
	List() []workspace.Info
	Stop(ctx context.Context, name string) error
	// Exec runs a program in the sandbox as the agent's user, until it ends or
	// ctx is done. The streams of cmd are set; its user is not.
	Exec(ctx context.Context, name string, cmd sandbox.Command) (sandbox.Exit, error)
	// Jobs returns the latest jobs of the sandbox, the newest last.
	Jobs(name string) ([]string, error)
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
	Error  string           `json:"error"`
	Code   dreamcore.Code   `json:"code"`
	Reason dreamcore.Reason `json:"reason,omitempty"`
	Hint   string           `json:"hint,omitempty"`
}

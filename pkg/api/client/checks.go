package client

import (
	"context"
	"net/http"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// emptyBody is the body of calls without parameters.
var emptyBody = []byte("{}")

// Health is the answer of /health.
type Health struct {
	Status  string
	App     string
	Version string // "" if the server does not report it
}

// Health calls /health, without the secret.
func (c *Client) Health(ctx context.Context) (Health, error) {
	a, err := c.object(ctx, call{name: NameHealth, method: http.MethodGet, accept: "application/json"})
	if err != nil {
		return Health{}, err
	}
	r := &reader{a: a}
	h := Health{Status: r.text("status"), App: r.text("app"), Version: r.optional("version")}
	return h, c.finish(NameHealth, r)
}

// SandboxIO is the input of a program in a sandbox and its output.
type SandboxIO struct {
	Input  string
	Output string
	Match  bool
}

// TestSandboxIO calls test_sandbox_io. The caller compares the texts.
func (c *Client) TestSandboxIO(ctx context.Context) (SandboxIO, error) {
	r, err := c.check(ctx, NameTestSandboxIO, emptyBody)
	if err != nil {
		return SandboxIO{}, err
	}
	s := SandboxIO{Input: r.text("input"), Output: r.text("output"), Match: r.flag("match")}
	return s, c.finish(NameTestSandboxIO, r)
}

// GVisor describes the kernel that the server saw inside a sandbox.
type GVisor struct {
	ProcVersion string
	IsGVisor    bool
}

// TestGVisor calls test_gvisor.
func (c *Client) TestGVisor(ctx context.Context) (GVisor, error) {
	r, err := c.check(ctx, NameTestGVisor, emptyBody)
	if err != nil {
		return GVisor{}, err
	}
	g := GVisor{ProcVersion: r.text("proc_version"), IsGVisor: r.flag("is_gvisor")}
	return g, c.finish(NameTestGVisor, r)
}

// Volume has the text that one sandbox wrote and the text that another one read.
type Volume struct {
	TestID  string
	Written string
	Read    string
	Match   bool
}

// TestVolume calls test_volume.
func (c *Client) TestVolume(ctx context.Context) (Volume, error) {
	r, err := c.check(ctx, NameTestVolume, emptyBody)
	if err != nil {
		return Volume{}, err
	}
	v := Volume{TestID: r.text("test_id"), Written: r.text("written"), Read: r.text("read"), Match: r.flag("match")}
	return v, c.finish(NameTestVolume, r)
}

// Auth is an answer of test_auth, with any status.
type Auth struct {
	Status  int
	Success bool
	Error   string
}

// TestAuth calls test_auth with the given secret instead of the client's own.
// If secret is nil, no header is sent. A refusal is an answer, not an error.
func (c *Client) TestAuth(ctx context.Context, secret *string) (Auth, error) {
	r := c.post(NameTestAuth, emptyBody)
	r.secret = secret
	resp, body, err := c.json(ctx, r)
	if err != nil {
		return Auth{}, err
	}
	a := Auth{Status: resp.StatusCode}
	object, err := c.parse(NameTestAuth, body)
	if err != nil {
		return a, err
	}
	m := &reader{a: object}
	if a.Status == http.StatusOK {
		a.Success = m.flag("success")
	}
	a.Error = c.text(m.optional("error"))
	return a, c.finish(NameTestAuth, m)
}

// TestStream calls test_stream and passes every event to fn as it arrives, up
// to the end of the answer, including events after a terminal event. An error of
// fn ends the call and is returned.
func (c *Client) TestStream(ctx context.Context, fn func(dreamcore.Event) error) error {
	return c.stream(ctx, &following{}, c.post(NameTestStream, emptyBody), fn)
}

// Outcome is how a generation ended.
type Outcome struct {
	Done        bool // the game is finished; otherwise the other fields describe the failure
	Code        dreamcore.FailureCode
	UserMessage string // cleaned, one line
	Recoverable bool
	ExitCode    int // of the CLI; valid if HasExit
	HasExit     bool
}

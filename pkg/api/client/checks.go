package client

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

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
	Failed string // the server's reason; "" if its check succeeded
	Input  string
	Output string
	Match  bool
}

// TestSandboxIO calls test_sandbox_io. The caller compares the texts.
func (c *Client) TestSandboxIO(ctx context.Context) (SandboxIO, error) {
	r, failed, err := c.check(ctx, NameTestSandboxIO)
	if err != nil || failed != "" {
		return SandboxIO{Failed: failed}, err
	}
	s := SandboxIO{Input: r.text("input"), Output: r.text("output"), Match: r.flag("match")}
	return s, c.finish(NameTestSandboxIO, r)
}

// GVisor describes the kernel that the server saw inside a sandbox.
type GVisor struct {
	Failed      string // the server's reason; "" if its check succeeded
	ProcVersion string
	IsGVisor    bool
}

// TestGVisor calls test_gvisor.
func (c *Client) TestGVisor(ctx context.Context) (GVisor, error) {
	r, failed, err := c.check(ctx, NameTestGVisor)
	if err != nil || failed != "" {
		return GVisor{Failed: failed}, err
	}
	g := GVisor{ProcVersion: r.text("proc_version"), IsGVisor: r.flag("is_gvisor")}
	return g, c.finish(NameTestGVisor, r)
}

// Volume has the text that one sandbox wrote and the text that another one read.
type Volume struct {
	Failed  string // the server's reason; "" if its check succeeded
	TestID  string
	Written string
	Read    string
	Match   bool
}

// TestVolume calls test_volume.
func (c *Client) TestVolume(ctx context.Context) (Volume, error) {
	r, failed, err := c.check(ctx, NameTestVolume)
	if err != nil || failed != "" {
		return Volume{Failed: failed}, err
	}
	v := Volume{TestID: r.text("test_id"), Written: r.text("written"), Read: r.text("read"), Match: r.flag("match")}
	return v, c.finish(NameTestVolume, r)
}

// Auth is an answer of test_auth, with any status.
type Auth struct {
	Status  int
	Success bool
	Message string
	Error   string
}

// TestAuth calls test_auth with the given secret instead of the client's own.
// If secret is nil, no header is sent. A refusal is an answer, not an error.
func (c *Client) TestAuth(ctx context.Context, secret *string) (Auth, error) {
	r := c.post(NameTestAuth, []byte("{}"))
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
		a.Message = c.text(m.optional("message"))
	}
	a.Error = c.text(m.optional("error"))
	return a, c.finish(NameTestAuth, m)
}

// Arrival is an event and the time at which its last byte was read.
type Arrival struct {
	Event dreamcore.Event
	At    time.Time
}

// TestStream calls test_stream and passes every event to fn as it arrives, up
// to the end of the answer, including events after a terminal event. An error of
// fn ends the call and is returned.
func (c *Client) TestStream(ctx context.Context, fn func(Arrival) error) error {
	return c.stream(ctx, nil, c.post(NameTestStream, []byte("{}")), func(e dreamcore.Event) error {
		return fn(Arrival{Event: e, At: time.Now()})
	})
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

// errEnded stops the reading of a stream at its terminal event.
var errEnded = errors.New("the stream has ended")

// Generate requests a game and passes every event to fn as it arrives, including
// the terminal event. An error means that there is no outcome: no answer, a
// refusal before the stream, an interrupted stream, or an error of fn. If the
// server names the job, a broken stream is resumed (see follow). When ctx ends
// or fn fails, the job is cancelled, unless the request has Detach set.
func (c *Client) Generate(ctx context.Context, req dreamcore.Request, fn func(dreamcore.Event) error) (Outcome, error) {
	body, err := marshal(req)
	if err != nil {
		return Outcome{}, err
	}
	var outcome Outcome
	f := &following{}
	err = c.follow(ctx, f, c.post(NameGenerateGame, body), func(e dreamcore.Event) error {
		if err := fn(e); err != nil {
			return &stopped{err}
		}
		if !terminal(e) {
			return nil
		}
		outcome = c.outcome(e)
		return errEnded
	})
	if errors.Is(err, errEnded) {
		return outcome, nil
	}
	own, byCaller := errors.AsType[*stopped](err)
	if f.job != "" && !req.Detach && (byCaller || ctx.Err() != nil) {
		c.cancelJob(ctx, f.job)
	}
	if byCaller {
		err = own.err
	}
	return outcome, err
}

// stopped wraps an error of the caller's function.
type stopped struct{ err error }

func (s *stopped) Error() string { return s.err.Error() }
func (s *stopped) Unwrap() error { return s.err }

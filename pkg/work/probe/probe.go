// Package probe checks the service from the inside: each check starts real
// sandboxes, runs a program in them and reports what it saw, never what is
// configured. The HTTP endpoints test_* and the start of the service use it.
//
// What a sandbox writes is hostile even here: it is bounded, and what goes on
// to clients is made anew from parsed values.
package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// Limits of every check.
const (
	DefaultTimeLimit = 30 * time.Second
	maxOutput        = 64 << 10         // bytes of one program's output
	maxStderr        = 2 << 10          // bytes of it that go into an error
	closeLimit       = 20 * time.Second // to remove one sandbox
)

// Sandboxes makes sandboxes; sandbox.Provider is one. The prober closes each.
type Sandboxes interface {
	Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error)
}

// Scratch makes an empty directory for the check id, a UUID, in the data
// volume, and returns its path on the host and what removes it with all that
// is in it. The prober gives it to the user of its Config, and removes it.
type Scratch func(id string) (dir string, remove func() error, err error)

// Config of a Prober.
type Config struct {
	Sandboxes Sandboxes
	Root      sandbox.Root
	Limits    sandbox.Limits
	UID, GID  uint32 // of the programs, inside
	Scratch   Scratch
	Logger    *slog.Logger  // nil: no log
	TimeLimit time.Duration // of one check; 0 means DefaultTimeLimit
	Deep      *Deep         // nil: no deep checks
}

// Prober runs checks. Its methods are safe for concurrent use; each takes a
// sandbox or two, so the caller bounds how many run at once.
//
// All methods return a dreamcore.Error with a Message that may be shown to
// clients; its cause is for the log. CodeSetup says that no sandbox could be
// started, CodeInternal that something in it failed.
type Prober struct {
	cfg  Config
	log  *slog.Logger
	deep chan struct{} // has a value while a deep check runs
}

// New returns a Prober. It starts nothing.
func New(cfg Config) *Prober {
	if cfg.TimeLimit <= 0 {
		cfg.TimeLimit = DefaultTimeLimit
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Prober{cfg: cfg, log: cfg.Logger, deep: make(chan struct{}, 1)}
}

// limited bounds a check in time, and says so in the error of ctx.
func (p *Prober) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, p.cfg.TimeLimit,
		fmt.Errorf("the check took longer than %s: %w", p.cfg.TimeLimit, context.DeadlineExceeded))
}

// within runs use with a new sandbox, which has ended and left nothing when
// within returns without an error.
func (p *Prober) within(ctx context.Context, mounts []sandbox.Mount, use func(sandbox.Sandbox) error) (err error) {
	sb, err := p.cfg.Sandboxes.Create(ctx, sandbox.Spec{Root: p.cfg.Root, Mounts: mounts, Limits: p.cfg.Limits})
	if err != nil {
		return &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "a sandbox could not be started", Err: ended(ctx, err),
			Hint: hint(err, "the log of the service names the cause; sandboxes need root and a writable cgroup file system: mount | grep cgroup"),
		}
	}
	defer func() {
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
		defer cancel()
		if cerr := sb.Close(limit); cerr != nil {
			p.log.Error("remove the sandbox of a check", "sandbox", sb.ID(), "error", cerr)
			err = errors.Join(err, failed("the sandbox could not be removed", cerr))
		}
	}()
	return use(sb)
}

// run runs a program to its end. An exit code other than 0 is an error.
func (p *Prober) run(ctx context.Context, sb sandbox.Sandbox, stdin string, stdout io.Writer, args ...string) error {
	stderr := &output{limit: maxStderr, cut: true}
	proc, err := sb.Start(ctx, sandbox.Command{
		Args: args, Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"},
		UID: p.cfg.UID, GID: p.cfg.GID,
		Stdin: strings.NewReader(stdin), Stdout: stdout, Stderr: stderr,
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", args[0], ended(ctx, err))
	}
	exit, err := proc.Wait()
	switch {
	case ctx.Err() != nil:
		// The program was killed; how it ended tells nothing.
		return fmt.Errorf("run %s: %w", args[0], ended(ctx, err))
	case err != nil:
		return fmt.Errorf("run %s: %w", args[0], err)
	case exit.Code != 0:
		return fmt.Errorf("run %s: exit code %d: %s", args[0], exit.Code, stderr.text())
	}
	return nil
}

// ended adds to err why ctx has ended, where it has.
func ended(ctx context.Context, err error) error {
	switch cause := context.Cause(ctx); {
	case cause == nil:
		return err
	case err == nil:
		return cause
	default:
		return fmt.Errorf("%w: %w", cause, err)
	}
}

func failed(message string, err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		message += ": it took too long"
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeInternal, Message: message, Err: err,
		Hint: hint(err, "the log of the service names the cause"),
	}
}

func hint(err error, otherwise string) string {
	if h := dreamcore.HintOf(err); h != "" {
		return h
	}
	return otherwise
}

// output keeps what a program writes, up to limit bytes. More is an error,
// which ends the program, or is thrown away when cut is set.
type output struct {
	limit int
	cut   bool
	buf   bytes.Buffer
}

var errTooMuch = errors.New("the program writes more than it should")

func (o *output) Write(b []byte) (int, error) {
	free := o.limit - o.buf.Len()
	if len(b) <= free {
		return o.buf.Write(b)
	}
	o.buf.Write(b[:free])
	if o.cut {
		return len(b), nil
	}
	return free, errTooMuch
}

// text is the output as text without white space around it.
func (o *output) text() string {
	return strings.ToValidUTF8(strings.TrimSpace(o.buf.String()), "\uFFFD")
}

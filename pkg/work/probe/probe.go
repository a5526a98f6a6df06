// Package probe checks the service from the inside: each check starts real
// sandboxes, runs programs in them and reports what these observe, never the
// configuration. The HTTP endpoints test_* and the start of the service use it.
//
// The output of a sandbox is hostile even here: it is bounded, and the answers to
// clients are built from parsed values.
//
// The files: check.go, stream.go and agent.go are the simple checks; deep.go and
// guest.go run the deep checks of leak.go, load.go and reach.go.
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
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

// Limits of every check.
const (
	DefaultTimeLimit = 30 * time.Second
	maxOutput        = 64 << 10         // bytes of one program's output
	maxStderr        = 2 << 10          // bytes of standard error in an error
	closeLimit       = 20 * time.Second // to remove one sandbox
)

// Scratch creates an empty directory in the data volume for the check id, a UUID.
// It returns the path on the host and a function that removes the directory. The
// prober changes its owner to the user of its Config, and removes it.
type Scratch func(id string) (dir string, remove func() error, err error)

// Config of a Prober.
type Config struct {
	Sandboxes workspace.Sandboxes
	Root      sandbox.Root
	Limits    sandbox.Limits
	UID, GID  uint32 // of the programs, inside
	Scratch   Scratch
	Logger    *slog.Logger  // may be nil
	TimeLimit time.Duration // of one check; 0 means DefaultTimeLimit
	Deep      *Deep         // nil disables the deep checks
}

// Prober runs checks. Its methods are safe for concurrent use. Each uses one or two
// sandboxes, so the caller should bound how many run at once.
//
// All methods return a dreamcore.Error whose Message may be shown to clients; its
// cause is for the log. CodeSetup means that a sandbox could not be started,
// CodeInternal that a program in it failed.
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

// limited calls check with the time limit of a check, which the cause of its
// context names, and adds the name of the check to the error.
func (p *Prober) limited(ctx context.Context, what string, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, p.cfg.TimeLimit,
		fmt.Errorf("the check took longer than %s: %w", p.cfg.TimeLimit, context.DeadlineExceeded))
	defer cancel()
	if err := check(ctx); err != nil {
		return fmt.Errorf("check %s: %w", what, err)
	}
	return nil
}

// within calls use with a new sandbox. When it returns without an error, the sandbox
// has ended and left nothing behind.
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

// run runs a program to its end. An exit code other than 0 is an error; message is
// what clients learn about it.
func (p *Prober) run(ctx context.Context, sb sandbox.Sandbox, message, stdin string, stdout io.Writer, args ...string) error {
	stderr := &output{limit: maxStderr, cut: true}
	exit, err := finish(ctx, sb, sandbox.Command{
		Args: args, Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"},
		UID: p.cfg.UID, GID: p.cfg.GID,
		Stdin: strings.NewReader(stdin), Stdout: stdout, Stderr: stderr,
	})
	if err == nil && exit.Code != 0 {
		err = fmt.Errorf("run %s: exit code %d: %s", args[0], exit.Code, stderr.text())
	}
	if err != nil {
		return failed(message, err)
	}
	return nil
}

// finish runs a program to its end. After the end of ctx, which kills the program,
// its exit has no meaning.
func finish(ctx context.Context, sb sandbox.Sandbox, cmd sandbox.Command) (sandbox.Exit, error) {
	proc, err := sb.Start(ctx, cmd)
	if err != nil {
		return sandbox.Exit{}, fmt.Errorf("start %s: %w", cmd.Args[0], ended(ctx, err))
	}
	exit, err := proc.Wait()
	if ctx.Err() != nil || err != nil {
		return exit, fmt.Errorf("run %s: %w", cmd.Args[0], ended(ctx, err))
	}
	return exit, nil
}

// ended adds to err the cause of the end of ctx, if it has ended.
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

// output keeps the output of a program, up to limit bytes. If cut is set, the rest
// is discarded; else it is an error, which kills the program.
type output struct {
	limit int
	cut   bool
	buf   bytes.Buffer
}

var errTooMuch = errors.New("the program writes more than is allowed")

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

// text returns the output as valid UTF-8, without surrounding white space.
func (o *output) text() string {
	return strings.ToValidUTF8(strings.TrimSpace(o.buf.String()), "\uFFFD")
}

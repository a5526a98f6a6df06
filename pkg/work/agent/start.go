package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// Start describes everything about a run that is fixed before its prompt.
type Start struct {
	Sandbox sandbox.Sandbox
	Dir     string        // of the project, inside
	Token   string        // the credential for the gateway
	Session Session       // a new one if Parked
	Limit   time.Duration // of the run, from which the limits of shell commands follow
	// Parked lets the CLI wait for Claim, which names the directory of the project.
	Parked bool
}

// Started is a CLI that waits for its prompt. It asks the model nothing before that. The
// caller must call Run or End once.
type Started struct {
	sandbox sandbox.Sandbox
	uid     uint32
	input   *input
	output  *output
	stderr  *tail
	process sandbox.Process // nil if it could not be started
	kill    context.CancelFunc

	done chan struct{} // closed when exit and err are set
	exit sandbox.Exit
	err  error
}

// Start starts the CLI. ctx bounds only the start.
func (c Config) Start(ctx context.Context, start Start) (*Started, error) {
	s := c.launch(ctx, start)
	if s.process == nil {
		return nil, s.err
	}
	return s, nil
}

// launch is Start, with the error in the result.
func (c Config) launch(ctx context.Context, start Start) *Started {
	s := &Started{
		sandbox: start.Sandbox, uid: c.UID, input: newInput(), output: newOutput(), stderr: &tail{},
		done: make(chan struct{}),
	}
	cmd := c.command(start)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.input, s.output, s.stderr
	// The process may outlive ctx while it is stopped gracefully; its start may
	// not.
	var life context.Context
	life, s.kill = context.WithCancel(context.WithoutCancel(ctx))
	disarm := context.AfterFunc(ctx, s.kill)
	p, err := s.sandbox.Start(life, cmd)
	disarm()
	if err != nil {
		s.kill()
		s.err = fmt.Errorf("start: %w", err)
		close(s.done)
		return s
	}
	s.process = p
	go func() {
		defer close(s.done)
		defer s.kill()
		s.exit, s.err = p.Wait()
		s.input.add("", true) // ends a Read that still waits
	}()
	return s
}

// command returns the command of the CLI without its streams.
func (c Config) command(start Start) sandbox.Command {
	cmd := c.Command(start.Dir, start.Token, start.Session)
	cmd.Env = append(cmd.Env, shellLimits(start.Limit)...)
	if start.Parked {
		cmd.Args = append(cmd.Args, "--await-claim")
	}
	return cmd
}

// Done returns a channel that is closed when the CLI has ended.
func (s *Started) Done() <-chan struct{} { return s.done }

// Alive reports whether the sandbox answers before ctx ends and the CLI has not
// ended.
func (s *Started) Alive(ctx context.Context) bool {
	answer := make(chan error, 1)
	go func() { answer <- s.process.Signal(syscall.Signal(0)) }() // takes no context, but ends by itself
	select {
	case err := <-answer:
		if err != nil {
			return false
		}
	case <-ctx.Done():
		return false
	}
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// End ends a CLI that gets no prompt, and every other process of its user.
func (s *Started) End(ctx context.Context) error {
	s.kill()
	err := s.sandbox.EndUser(ctx, s.uid)
	select {
	case <-s.done:
	case <-ctx.Done():
		if err == nil {
			err = ctx.Err()
		}
	}
	return err
}

// ErrNoClaim is the error of a CLI that refuses to be claimed, or does not answer.
var ErrNoClaim = errors.New("the CLI cannot be claimed")

// Claim gives a parked CLI the directory of its project in the sandbox, as if it had been
// started there. HOME may be empty before. After an error the CLI must be ended. ErrNoClaim:
// the CLI does not do it, or not in time.
func (s *Started) Claim(ctx context.Context, dir string) error {
	id := uuid.NewString()
	answered := s.output.expect(id, true)
	s.input.add(controlRequest(id, claim{"claim_session", dir}), false)
	limited, cancel := context.WithTimeout(ctx, claimLimit)
	defer cancel()
	select {
	case r := <-answered:
		if r.Status != "ok" || r.Directory != dir {
			return fmt.Errorf("%w in %s: status %.100q, directory %.200q, error %.200q", ErrNoClaim, dir, r.Status, r.Directory, r.Error)
		}
		return nil
	case <-s.done:
		return s.ended()
	case <-limited.Done():
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("%w: no answer within %s", ErrNoClaim, claimLimit)
	}
}

// claimLimit bounds the time of a claim.
const claimLimit = 5 * time.Second

type claim struct {
	Subtype string `json:"subtype"`
	Dir     string `json:"cwd"`
}

// Rehearse makes a CLI that waits prepare a request to the model, as it will after its
// prompt, which is faster the second time. It only asks the gateway for the number of
// tokens; see gateway.Socket.Await. A prompt that comes meanwhile waits. Rehearse returns
// a function that waits until the CLI has rehearsed, or cannot, and then has also finished
// its start; its error says that the CLI has ended or ctx.
func (s *Started) Rehearse() (await func(ctx context.Context) error) {
	id := uuid.NewString()
	rehearsed := s.output.expect(id, false)
	s.input.add(controlRequest(id, map[string]string{"subtype": "get_context_usage"}), false)
	return func(ctx context.Context) error {
		select {
		case <-rehearsed:
			return nil
		case <-s.done:
			return s.ended()
		case <-ctx.Done():
			return fmt.Errorf("the CLI does not finish its start: %w", context.Cause(ctx))
		}
	}
}

// ended describes the end of a CLI that should wait.
func (s *Started) ended() error {
	return fmt.Errorf("the CLI has ended with code %d: %.500q", s.exit.Code, s.stderr)
}

// controlRequest returns the line of a request to the CLI.
func controlRequest(id string, request any) string {
	return line(struct {
		Type    string `json:"type"`
		ID      string `json:"request_id"`
		Request any    `json:"request"`
	}{"control_request", id, request})
}

// line encodes a line of input.
func line(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		panic("agent: encode a line of input: " + err.Error()) // it is text
	}
	return string(raw) + "\n"
}

// input is the standard input of a CLI, whose lines come later. Adding one never blocks.
type input struct {
	mu    sync.Mutex
	text  bytes.Buffer
	ended bool
	more  chan struct{} // has an entry if text or ended may have changed
}

func newInput() *input { return &input{more: make(chan struct{}, 1)} }

// add adds text, and ends the input after it if last is true. Nothing is added after the
// end.
func (i *input) add(text string, last bool) {
	i.mu.Lock()
	if !i.ended {
		i.text.WriteString(text)
		i.ended = last
	}
	i.mu.Unlock()
	select {
	case i.more <- struct{}{}:
	default:
	}
}

// Read implements io.Reader, for one reader.
func (i *input) Read(p []byte) (int, error) {
	for {
		i.mu.Lock()
		if i.text.Len() > 0 || i.ended {
			defer i.mu.Unlock()
			return i.text.Read(p) // io.EOF if there is no text
		}
		i.mu.Unlock()
		<-i.more
	}
}

// message returns the line by which the CLI gets a prompt.
func message(prompt string) string {
	type content struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	}
	return line(struct {
		Type    string  `json:"type"`
		Message content `json:"message"`
	}{"user", content{"user", Prompt(prompt)}})
}

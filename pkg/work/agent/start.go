package agent

import (
	"bytes"
	"context"
	"encoding/json"
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
	Dir     string // of the project, inside
	Token   string // the credential for the gateway
	Session Session
	Limit   time.Duration // of the run, from which the limits of shell commands follow
}

// Started is a CLI that waits for its prompt. It prints nothing and asks the model
// nothing before that. The caller must call Run or End once.
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

// Move makes a CLI that waits work in another directory of the sandbox, as if it had been
// started there: it begins its conversation there, and HOME may get its content only
// before Move too. After an error the CLI must be ended.
func (s *Started) Move(ctx context.Context, dir string) error {
	request := uuid.NewString()
	answered := s.output.expect(request)
	s.input.add(moveRequest(request, dir), false)
	select {
	case answer := <-answered:
		if answer.Status != "ok" || answer.Directory != dir {
			return fmt.Errorf("the CLI does not move to %s: %.200q %.200q", dir, answer.Status, answer.Error)
		}
		return nil
	case <-s.done:
		return fmt.Errorf("the CLI has ended with code %d: %.500q", s.exit.Code, s.stderr)
	case <-ctx.Done():
		return fmt.Errorf("the CLI does not move in time: %w", context.Cause(ctx))
	}
}

// moveRequest returns the line by which the CLI changes its directory. A person would be
// asked whether the new one can be trusted; at its start the CLI does not ask that either.
func moveRequest(id, dir string) string {
	type request struct {
		Subtype   string `json:"subtype"`
		Path      string `json:"path"`
		Trusted   bool   `json:"trust_accepted"`
		Directory string `json:"trusted_directory"`
	}
	return line(struct {
		Type    string  `json:"type"`
		ID      string  `json:"request_id"`
		Request request `json:"request"`
	}{"control_request", id, request{"set_cwd", dir, true, dir}})
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

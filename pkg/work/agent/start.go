package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"

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
		sandbox: start.Sandbox, uid: c.UID, input: &input{given: make(chan struct{})}, output: newOutput(), stderr: &tail{},
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
		s.input.give("") // ends a Read that still waits
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

// input is the standard input of a CLI: one message, which comes later. Giving it
// never blocks.
type input struct {
	once  sync.Once
	given chan struct{} // closed when text is set
	text  strings.Reader
}

// give sets the message and ends the input after it. Only the first call counts.
func (i *input) give(message string) {
	i.once.Do(func() {
		i.text.Reset(message)
		close(i.given)
	})
}

// Read implements io.Reader.
func (i *input) Read(p []byte) (int, error) {
	<-i.given
	return i.text.Read(p)
}

// message returns the line by which the CLI gets a prompt.
func message(prompt string) string {
	type content struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	}
	line, err := json.Marshal(struct {
		Type    string  `json:"type"`
		Message content `json:"message"`
	}{"user", content{"user", Prompt(prompt)}})
	if err != nil {
		panic("agent: encode a prompt: " + err.Error()) // it is text
	}
	return string(line) + "\n"
}

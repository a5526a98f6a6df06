package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// service is a running `dreamcore serve` with a state directory of its own.
type service struct {
	cmd    *exec.Cmd
	binary string
	state  string
	url    string
	secret string
	log    string // file
	last   string // user who had the last game
}

// modelKey is the key of a model that takes any.
const modelKey = "ANTHROPIC_API_KEY=sk-ant-bench"

var serving = regexp.MustCompile(`Serving on (http://[^ \n]+)`)

// setup prepares the state directory of all services of this run: it proves the
// agent, which takes a while.
func (b *bench) setup(ctx context.Context) error {
	b.state = filepath.Join(b.dir, "state")
	args := []string{"--state", b.state, "setup", "--yes"}
	if b.agent != "" {
		args = append(args, "--claude", b.agent)
	}
	cmd := exec.CommandContext(ctx, b.binary, args...)
	cmd.Env = append(cmd.Environ(), modelKey)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("dreamcore setup: %w: %s", err, lastLine(out))
	}
	raw, err := os.ReadFile(filepath.Join(b.state, "config.yaml"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	b.config = string(raw)
	return nil
}

// serve starts a service with these lines of configuration. The caller must stop it
// before the next one is started.
func (b *bench) serve(ctx context.Context, name, config string) (*service, error) {
	if b.state == "" {
		if err := b.setup(ctx); err != nil {
			return nil, err
		}
	}
	s := &service{binary: b.binary, state: b.state, log: filepath.Join(b.dir, name+".log")}
	// A game is the agent's work here, not the check of it.
	text := b.config + "\nacceptance: \"off\"\n" + config
	if err := os.WriteFile(filepath.Join(b.state, "config.yaml"), []byte(text), 0o600); err != nil {
		return nil, err
	}
	secret, err := exec.CommandContext(ctx, b.binary, "--state", s.state, "secret", "show", "modal-internal-secret").Output()
	if err != nil {
		return nil, fmt.Errorf("dreamcore secret: %w", err)
	}
	s.secret = strings.TrimSpace(string(secret))
	return s, s.start(ctx)
}

func (s *service) start(ctx context.Context) error {
	log, err := os.Create(s.log)
	if err != nil {
		return err
	}
	defer log.Close() // the service has its own descriptor
	s.cmd = exec.Command(s.binary, "--state", s.state, "serve", "--listen", "127.0.0.1:0")
	s.cmd.Env = append(s.cmd.Environ(), modelKey)
	s.cmd.Stderr = log
	if err := s.cmd.Start(); err != nil {
		return err
	}
	for range 600 {
		raw, err := os.ReadFile(s.log)
		if err != nil {
			return errors.Join(err, s.stop())
		}
		if m := serving.FindSubmatch(raw); m != nil {
			s.url = string(m[1])
			time.Sleep(3 * time.Second) // for what it makes ahead of need
			return nil
		}
		if ctx.Err() != nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	raw, _ := os.ReadFile(s.log)
	return errors.Join(fmt.Errorf("dreamcore serve does not come up: %s", lastLine(raw)), s.stop())
}

func (s *service) stop() error { return end(s.cmd) }

// ask sends a request. The caller must close the body of the answer.
func (s *service) ask(ctx context.Context, method, path string, body any) (*http.Response, error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, method, s.url+path, bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	r.Header.Set("X-Modal-Secret", s.secret)
	answer, err := http.DefaultClient.Do(r)
	if err == nil && answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 400))
		answer.Body.Close()
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, answer.Status, bytes.TrimSpace(text))
	}
	return answer, err
}

// read sends a request and returns the answer.
func (s *service) read(ctx context.Context, method, path string, body any) ([]byte, error) {
	answer, err := s.ask(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	return io.ReadAll(answer.Body)
}

func (s *service) sandboxIO(ctx context.Context) error {
	raw, err := s.read(ctx, http.MethodPost, "/test_sandbox_io", nil)
	if err != nil {
		return err
	}
	if !bytes.Contains(raw, []byte(`"success":true`)) {
		return fmt.Errorf("test_sandbox_io: %s", raw)
	}
	return nil
}

func (s *service) prewarm(ctx context.Context, user string) error {
	_, err := s.read(ctx, http.MethodPost, "/prewarm_sandbox", map[string]string{"user_id": user})
	return err
}

// sandboxState is what `dreamcore ps` says of a sandbox.
type sandboxState struct {
	User      string `json:"user"`
	State     string `json:"state"`
	AgentWarm bool   `json:"agent_warm"`
}

// untilReady waits until there is a standby sandbox, and agents wait for the user and
// for the one who had the last game.
func (s *service) untilReady(ctx context.Context, user string) error {
	warm := func(all []sandboxState, user string) bool {
		return slices.ContainsFunc(all, func(s sandboxState) bool { return s.User == user && s.AgentWarm })
	}
	const limit, pause = 90 * time.Second, 500 * time.Millisecond
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(pause) {
		raw, err := exec.CommandContext(ctx, s.binary, "--state", s.state, "ps", "--json").Output()
		if err != nil {
			return fmt.Errorf("dreamcore ps: %w", err)
		}
		var list struct {
			Sandboxes []sandboxState `json:"sandboxes"`
		}
		if err := json.Unmarshal(raw, &list); err != nil {
			return fmt.Errorf("dreamcore ps: %w", err)
		}
		all := list.Sandboxes
		standby := slices.ContainsFunc(all, func(s sandboxState) bool { return s.State == "standby" && s.AgentWarm })
		if standby && warm(all, user) && warm(all, s.last) {
			return untilIdle(ctx)
		}
	}
	return errors.New("the service does not start a sandbox or an agent ahead")
}

// untilIdle waits until what was started ahead has started: the processors do little for
// half a second. On a machine that others keep busy it gives up after a while.
func untilIdle(ctx context.Context) error {
	const limit, pause, little = 15 * time.Second, 500 * time.Millisecond, 0.1
	before, err := processorTimes()
	for end := time.Now().Add(limit); err == nil && time.Now().Before(end); {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		var now times
		if now, err = processorTimes(); err == nil && now.busy-before.busy < little*(now.all-before.all) {
			return nil
		}
		before = now
	}
	return err
}

// times are those of all processors since the start of the machine, in ticks.
type times struct{ busy, all float64 }

// processorTimes reads the first line of /proc/stat; see proc_stat(5).
func processorTimes() (t times, err error) {
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return t, err
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	const idle, waiting = 3, 4
	for i, field := range strings.Fields(strings.TrimPrefix(line, "cpu"))[:8] {
		n, err := strconv.ParseFloat(field, 64)
		if err != nil {
			return t, fmt.Errorf("/proc/stat: %w", err)
		}
		if t.all += n; i != idle && i != waiting {
			t.busy += n
		}
	}
	return t, nil
}

// listen returns a listener on a free port of this machine.
func listen() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }

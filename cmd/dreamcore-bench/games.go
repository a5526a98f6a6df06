package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
)

const prompt = "a snake game"

// lap are the times of one game in milliseconds.
type lap struct{ first, said, whole float64 }

// games compares the agent without a sandbox to games of users: the first game of a
// user, the first one of another project in a sandbox that is there, and an edit, for
// which the agent waits. All ask the same scripted model, which answers at once. Each
// begins when the service has started what it starts ahead.
func (b *bench) games(ctx context.Context) (err error) {
	if b.agent == "" {
		b.skip("games", "there is no -agent")
		return nil
	}
	l, err := listen()
	if err != nil {
		return err
	}
	model := &http.Server{Handler: replay.New(replay.Demo())}
	go func() { _ = model.Serve(l) }() // ends with Close below
	defer func() { err = errors.Join(err, model.Close()) }()
	upstream := "http://" + l.Addr().String()
	s, err := b.serve(ctx, "games", "upstream: "+upstream+"\n")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	known, edited := uuid.NewString(), uuid.NewString()
	project := uuid.NewString()
	if _, err := s.game(ctx, edited, project); err != nil {
		return err
	}
	runs := []struct {
		name string
		run  func() (lap, error)
	}{
		{"agent without a sandbox", func() (lap, error) { return b.bareAgent(ctx, upstream) }},
		{"first game of a user", func() (lap, error) { return s.game(ctx, uuid.NewString(), uuid.NewString()) }},
		{"first game of another project", func() (lap, error) { return s.game(ctx, known, uuid.NewString()) }},
		{"an edit, the agent waits", func() (lap, error) { return s.game(ctx, edited, project) }},
	}
	laps := make([][]lap, len(runs))
	for round := range b.pairs + 1 {
		for i, r := range runs {
			if err := s.untilReady(ctx, edited); err != nil {
				return err
			}
			l, err := r.run()
			if err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
			if round > 0 { // the first round fills caches
				laps[i] = append(laps[i], l)
			}
		}
	}
	for _, part := range []struct {
		name string
		of   func(lap) float64
	}{
		{"games: first line of the agent", func(l lap) float64 { return l.first }},
		{"games: first word of the model", func(l lap) float64 { return l.said }},
		{"games: the whole game", func(l lap) float64 { return l.whole }},
	} {
		base := pick(laps[0], part.of)
		for i, r := range runs {
			b.report.add(part.name, r.name, "ms", pick(laps[i], part.of), base, "")
		}
	}
	return nil
}

func pick(laps []lap, of func(lap) float64) []float64 {
	var out []float64
	for _, l := range laps {
		out = append(out, of(l))
	}
	return out
}

// game makes a game of a project.
func (s *service) game(ctx context.Context, user, project string) (lap, error) {
	s.last = user
	begin := time.Now()
	answer, err := s.ask(ctx, http.MethodPost, "/generate_game",
		map[string]string{"user_id": user, "project_id": project, "prompt": prompt})
	if err != nil {
		return lap{}, err
	}
	defer answer.Body.Close()
	l, last, err := follow(answer.Body, begin)
	if err == nil && !bytes.Contains(last, []byte(`"exit_code":0`)) {
		err = fmt.Errorf("the last event is %s", last)
	}
	return l, err
}

// follow times the lines of the agent, with or without the form of events.
func follow(r io.Reader, begin time.Time) (l lap, last []byte, err error) {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		line = bytes.TrimSpace(bytes.TrimPrefix(line, []byte("data: ")))
		var event struct{ Type string }
		if json.Unmarshal(line, &event) == nil {
			last = line
			switch {
			case event.Type == "system" && l.first == 0:
				l.first = millis(begin)
			case event.Type == "assistant" && l.said == 0:
				l.said = millis(begin)
			}
		}
		if errors.Is(err, io.EOF) {
			l.whole = millis(begin)
			if l.first == 0 || l.said == 0 {
				return l, last, fmt.Errorf("the agent said nothing: %s", last)
			}
			return l, last, nil
		}
		if err != nil {
			return l, last, err
		}
	}
}

// nobody is the user that runs the agent without a sandbox; it refuses root.
const nobody = 65534

// bareAgent runs the agent on this machine with the arguments of a game.
func (b *bench) bareAgent(ctx context.Context, upstream string) (l lap, err error) {
	var dirs [2]string // work and home
	for i := range dirs {
		if dirs[i], err = os.MkdirTemp(b.dir, "agent-"); err != nil {
			return l, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dirs[i])) }()
		if err := os.Chown(dirs[i], nobody, nobody); err != nil {
			return l, err
		}
	}
	cmd := exec.CommandContext(ctx, b.agent, "-p", "--output-format", "stream-json", "--verbose", "--dangerously-skip-permissions",
		"--setting-sources", "", "--strict-mcp-config", "--session-id", uuid.NewString())
	cmd.Dir = dirs[0]
	cmd.Env = []string{
		"PATH=/usr/bin:/bin", "LANG=C.UTF-8", "TMPDIR=/tmp", "HOME=" + dirs[1],
		"ANTHROPIC_BASE_URL=" + upstream, "ANTHROPIC_API_KEY=bench",
		"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1", "DISABLE_AUTOUPDATER=1",
	}
	cmd.Stdin = strings.NewReader(prompt)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return l, err
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return l, err
	}
	l, _, err = follow(out, begin)
	if err = errors.Join(err, cmd.Wait()); err != nil {
		return l, err
	}
	l.whole = millis(begin)
	_, err = os.Stat(filepath.Join(dirs[0], "index.html"))
	return l, err
}

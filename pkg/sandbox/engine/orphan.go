package engine

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// MaxComm is the length to which the kernel truncates the name of a process, in
// bytes.
const MaxComm = 15

// reapOrphans reaps dead processes of the engine that have become our children
// and whose ids are not recorded: those of a start that was interrupted before
// the engine recorded them. One that belongs to a sandbox that is being closed
// may be reaped here or there: dead processes have left their cgroup, so nothing
// tells which sandbox they belonged to.
func (p *Provider) reapOrphans() error {
	names, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return err
	}
	own := p.marks.Command
	if own == "" {
		own = filepath.Base(p.cfg.Exe)
	}
	own = own[:min(len(own), MaxComm)]
	for _, name := range names {
		raw, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		s, ok := parseStat(raw)
		if !ok || s.state != "Z" || s.parent != os.Getpid() || !s.orphan(own, p.marks.Orphans) {
			continue
		}
		if _, err := unix.Wait4(s.pid, nil, unix.WNOHANG, nil); err != nil && !errors.Is(err, unix.ECHILD) && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return nil
}

// stat holds some fields of /proc/PID/stat, see proc(5).
type stat struct {
	comm, state                 string
	pid, parent, group, session int
}

// orphan reports whether a child of ours is a process that the engine left, and
// not a command of the engine, which its starter waits for. Processes of the
// engine have names of their own; commands have the name of the program and lead
// a process group in our session. A process that died before it changed its name
// also has the name of the program, but it is in the group of its parent or
// leads its own session.
func (s stat) orphan(own string, names []string) bool {
	if s.comm == own {
		return s.group != s.pid || s.session == s.pid
	}
	return slices.Contains(names, s.comm)
}

// parseStat parses a line of /proc/PID/stat. The name in it may contain blanks
// and parentheses.
func parseStat(raw []byte) (s stat, ok bool) {
	open, end := bytes.IndexByte(raw, '('), bytes.LastIndexByte(raw, ')')
	if open < 0 || end < open {
		return s, false
	}
	rest := strings.Fields(string(raw[end+1:]))
	if len(rest) < 4 {
		return s, false
	}
	s.comm, s.state = string(raw[open+1:end]), rest[0]
	numbers := append([]string{strings.TrimSpace(string(raw[:open]))}, rest[1:4]...)
	for i, into := range []*int{&s.pid, &s.parent, &s.group, &s.session} {
		n, err := strconv.Atoi(numbers[i])
		if err != nil {
			return s, false
		}
		*into = n
	}
	return s, true
}

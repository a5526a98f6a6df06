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

// MaxComm is how much the kernel keeps of a process's name, in bytes.
const MaxComm = 15

// reapOrphans collects processes of the engine that have died and become our
// children without anybody having learned their ids: those of a start that was
// cut off before the engine wrote them down. One that belongs to a sandbox
// which is just being closed may be collected here or there. The dead have
// left their cgroup, so that it cannot tell whose they were.
func (p *Provider) reapOrphans() error {
	names, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return err
	}
	own := p.marks.Command
	if own == "" {
		own = filepath.Base(p.exe)
	}
	own = own[:min(len(own), MaxComm)]
	for _, name := range names {
		raw, err := os.ReadFile(name)
		if err != nil {
			continue // gone meanwhile
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

// stat is what we need of proc(5)'s stat.
type stat struct {
	comm, state                 string
	pid, parent, group, session int
}

// orphan tells whether a child of ours is one of the engine's processes, which
// have names of their own, and not a command of the engine, which somebody
// waits for and which has the name of the program. Commands lead a process
// group in our session. A child that died before it became what it should be
// has the name of the program: it is still in the group of its parent, or has
// a session of its own.
func (s stat) orphan(own string, names []string) bool {
	if s.comm == own {
		return s.group != s.pid || s.session == s.pid
	}
	return slices.Contains(names, s.comm)
}

// parseStat reads a line of /proc/PID/stat. The name in it may hold blanks and
// parentheses.
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

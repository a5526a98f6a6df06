package engine

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// evidence keeps what tells why an engine failed out of everything that the
// engine and PID 1 write. It is bounded, whatever they write: a crash of the
// engine, which a guest may bring about, prints megabytes.
type evidence struct {
	mu       sync.Mutex
	errors   []string // the last ones
	warnings []string // the last ones; every good start has some too
	crash    []string // the first lines of a crash
}

const (
	evidenceLines = 8
	evidenceLine  = 512 // bytes
	crashLines    = 6
)

// follow reads r until it ends, or until its deadline and then what is in it.
func (e *evidence) follow(r *os.File) {
	if err := e.read(r); !errors.Is(err, os.ErrDeadlineExceeded) {
		return
	}
	if r.SetReadDeadline(time.Time{}) != nil {
		return
	}
	raw, err := r.SyscallConn()
	if err != nil {
		return
	}
	var left int
	if err := raw.Control(func(fd uintptr) { left, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }); err == nil {
		_ = e.read(io.LimitReader(r, int64(left)))
	}
}

func (e *evidence) read(r io.Reader) error {
	br := bufio.NewReaderSize(r, 4096)
	for {
		line, err := br.ReadSlice('\n')
		e.add(line)
		for errors.Is(err, bufio.ErrBufferFull) { // the rest of a long line
			_, err = br.ReadSlice('\n')
		}
		if err != nil {
			return err
		}
	}
}

func (e *evidence) add(raw []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	text, rest := message(bytes.TrimSpace(raw))
	for ; text != ""; text, rest = message(rest) {
		for line := range strings.Lines(text) {
			e.line(strings.TrimSpace(line))
		}
	}
}

// line keeps a line, or not. e.mu is held.
func (e *evidence) line(line string) {
	if line == "" {
		return
	}
	if n := len(e.crash); n > 0 {
		if n < crashLines {
			e.crash = append(e.crash, cut(line))
		}
		return // goroutines, for ever
	}
	switch class(line) {
	case 'I':
	case 'W':
		e.warnings = last(append(e.warnings, cut(line)))
	case 'P':
		e.crash = append(e.crash, cut(line))
	default:
		if line = cut(line); !slices.Contains(e.errors, line) { // the engine says it to us and to its log
			e.errors = last(append(e.errors, line))
		}
	}
}

// class sorts a line: I is chatter, W a warning, P the begin of a crash. The
// rest are errors of the engine and what PID 1 says.
func class(line string) byte {
	if strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "fatal error:") || strings.HasPrefix(line, "SIG") {
		return 'P'
	}
	// I1123 23:08:23.365420       1 cli.go:275] text
	if len(line) > 6 && strings.ContainsRune("DIWE", rune(line[0])) && line[5] == ' ' && strings.Trim(line[1:5], "0123456789") == "" {
		if line[0] == 'D' {
			return 'I'
		}
		return line[0]
	}
	// The table of timings that ends the log of a start.
	if strings.HasPrefix(line, "[") || strings.HasPrefix(line, "----") {
		return 'I'
	}
	return 'E'
}

// message is the text at the begin of a line, and what comes behind it. JSON, as
// errors for the caller are, has its message for a text; the engine writes it
// without the end of a line.
func message(line []byte) (text string, rest []byte) {
	if len(line) > 0 && line[0] == '{' {
		var v struct {
			Msg string `json:"msg"`
		}
		d := json.NewDecoder(bytes.NewReader(line))
		if d.Decode(&v) == nil && v.Msg != "" {
			return v.Msg, bytes.TrimSpace(line[d.InputOffset():])
		}
	}
	return string(line), nil
}

func cut(line string) string {
	if len(line) > evidenceLine {
		line = line[:evidenceLine] + "…"
	}
	return strings.ToValidUTF8(line, "?")
}

func last(lines []string) []string {
	if len(lines) > evidenceLines {
		lines = lines[len(lines)-evidenceLines:]
	}
	return lines
}

// Crash is the begin of what the engine said when it crashed, or "".
func (e *evidence) Crash() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.Join(e.crash, "\n")
}

// String is the evidence, line by line: a crash, else errors, else warnings.
func (e *evidence) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	lines := append(append([]string(nil), e.errors...), e.crash...)
	if len(lines) == 0 {
		lines = e.warnings
	}
	return strings.Join(lines, "\n")
}

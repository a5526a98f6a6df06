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

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/pid1"
)

// evidence keeps the part of the output of the engine and PID 1 that explains a
// failure. Its size is bounded: a crash of the engine, which a guest may cause,
// prints megabytes.
type evidence struct {
	mu       sync.Mutex
	errors   []string // the last ones
	warnings []string // the last ones; successful starts print some too
	crash    []string // the first lines of a crash
}

const (
	evidenceLines = 8
	evidenceLine  = 512 // bytes
	crashLines    = 6
)

// follow reads r until it ends, or until its deadline and then the rest of the
// pipe.
func (e *evidence) follow(r *os.File) {
	if err := e.read(r); !errors.Is(err, os.ErrDeadlineExceeded) {
		return
	}
	if r.SetReadDeadline(time.Time{}) != nil {
		return
	}
	_ = e.read(io.LimitReader(r, int64(pid1.Pending(r)))) // ends with io.EOF
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

// line keeps a line if it explains a failure. It must be called with mu held.
func (e *evidence) line(line string) {
	if line == "" {
		return
	}
	if n := len(e.crash); n > 0 {
		if n < crashLines {
			e.crash = append(e.crash, cut(line))
		}
		return // stacks of goroutines
	}
	switch class(line) {
	case 'I':
	case 'W':
		e.warnings = last(append(e.warnings, cut(line)))
	case 'P':
		e.crash = append(e.crash, cut(line))
	default:
		if line = cut(line); !slices.Contains(e.errors, line) { // the engine prints it twice
			e.errors = last(append(e.errors, line))
		}
	}
}

// class classifies a line: I is information, W a warning, P the beginning of a
// crash, and E an error of the engine or a line of PID 1.
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
	// The table of timings at the end of the log of a start.
	if strings.HasPrefix(line, "[") || strings.HasPrefix(line, "----") {
		return 'I'
	}
	return 'E'
}

// message splits a line into its text and the rest. The text of a JSON object,
// the form of errors for the caller, is its message. The engine writes such an
// object without a newline, so that another line may follow it.
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

// Crash returns the beginning of the engine's crash report, or "".
func (e *evidence) Crash() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.Join(e.crash, "\n")
}

// String returns the errors and the crash, line by line, or else the warnings.
func (e *evidence) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	lines := append(append([]string(nil), e.errors...), e.crash...)
	if len(lines) == 0 {
		lines = e.warnings
	}
	return strings.Join(lines, "\n")
}

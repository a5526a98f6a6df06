package crash

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
)

// maxLine bounds a line, in bytes. A longer one is left out: cut in two, it could
// show two halves of a secret.
const maxLine = 256 << 10

const leftOut = "[a line that is too long to search for secrets was left out]\n"

// Main runs the reader. It ends with the process that started it.
func Main() error {
	// These are for the process that is read, whose last output is still to come.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	if err := Harden(); err != nil {
		return err
	}
	feed, answers := os.NewFile(3, "feed"), os.NewFile(4, "answers")
	defer answers.Close()
	defer feed.Close()
	debug.FreeOSMemory() // it is idle for almost all of its life
	var r secret.Redactor
	done := make(chan error, 1)
	go func() { done <- learn(feed, answers, &r) }()
	err := pass(os.Stdin, os.Stderr, &r)
	_ = feed.Close() // the other end may still be open
	return errors.Join(err, <-done)
}

// learn receives lists of secrets, each of which replaces the one before, and
// acknowledges them.
func learn(feed io.Reader, answers io.Writer, r *secret.Redactor) error {
	dec := json.NewDecoder(feed)
	var known []string
	for {
		var values []string
		if err := dec.Decode(&values); err != nil {
			return nil // the other process has ended
		}
		r.Add(values...)
		r.Remove(known...)
		known = values
		if _, err := answers.Write([]byte{1}); err != nil {
			return nil
		}
	}
}

// pass copies in to out line by line, without secrets.
func pass(in io.Reader, out io.Writer, r *secret.Redactor) error {
	lines := bufio.NewReaderSize(in, maxLine)
	for {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = lines.ReadSlice('\n')
			}
			line = []byte(leftOut)
		}
		if _, err := out.Write(r.RedactBytes(line)); err != nil {
			return nil // out has no reader; the pipe closes with this process
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

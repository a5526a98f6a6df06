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

// maxLine bounds a line. A longer one is left out: cut in two, it could show
// two halves of a secret.
const maxLine = 256 << 10

const leftOut = "[a line that is too long to look for secrets in is left out]\n"

// Main is the reader. It ends with the process that started it.
func Main() error {
	// These are for the other one, whose last words are still to come.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	if err := Harden(); err != nil {
		return err
	}
	feed, answers := os.NewFile(3, "feed"), os.NewFile(4, "answers")
	defer answers.Close()
	defer feed.Close()
	debug.FreeOSMemory() // it will sit here for long and do nothing
	var r secret.Redactor
	done := make(chan error, 1)
	go func() { done <- learn(feed, answers, &r) }()
	err := pass(os.Stdin, os.Stderr, &r)
	_ = feed.Close() // where the other end is open still
	return errors.Join(err, <-done)
}

// learn takes note of the secrets, of which each list replaces the one before,
// and says so.
func learn(feed io.Reader, answers io.Writer, r *secret.Redactor) error {
	dec := json.NewDecoder(feed)
	var known []string
	for {
		var values []string
		if err := dec.Decode(&values); err != nil {
			return nil // it is over there
		}
		r.Add(values...)
		r.Remove(known...)
		known = values
		if _, err := answers.Write([]byte{1}); err != nil {
			return nil
		}
	}
}

// pass writes what it reads, line by line, without secrets.
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
			return nil // nobody reads; the pipe closes with us
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

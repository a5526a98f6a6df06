// Package usage keeps the books: what each job has spent on the model, what
// that costs, and who may spend more.
//
// The books are one file for each day (UTC), DATE.ndjson, to which every
// process of this state directory appends. Records only ever add: the input of
// a request is written when the model reports it, the rest at its end, so that
// a process that is killed takes with it only what nobody had reported yet. A
// record is one write to a file that is opened for appending, which Linux does
// in one piece, and begins with a newline, which ends the torn line of somebody
// who died: so no process ever waits for the lock of another.
//
//	book, err := usage.Open(dir, usage.Options{Prices: prices, Limits: limits})
//	job := book.Job(user, project, id)
//	settle, err := job.Reserve(model, inputTokens, outputTokens) // *dreamcore.OverBudget
//	settle(dreamcore.Spent{…}, false)                            // as it is reported
//	settle(dreamcore.Spent{…}, true)                             // the whole, once
//	err = book.Close()
//
// A plain file beat a database here: it is appended to once or twice for each
// request (84 µs with all checks), summed from the beginning of the month at a
// start, and read with any tool. A day that is over has its sums beside it, in
// DATE.sums: a start that finds them, in a month of 300,000 requests, takes 40 ms
// and not half a second. Nothing depends on them.
package usage

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Record is one line of the books. All of them together are the sum.
type Record struct {
	Time         time.Time      `json:"t"`
	User         string         `json:"user"`
	Project      string         `json:"project"`
	Job          string         `json:"job"`
	Model        string         `json:"model"`
	Upstream     string         `json:"upstream,omitempty"`
	Requests     int64          `json:"n,omitempty"` // 1 in the first record of a request that used anything
	Input        int64          `json:"in,omitempty"`
	Output       int64          `json:"out,omitempty"`
	CacheWrite   int64          `json:"cw,omitempty"`
	CacheWrite1h int64          `json:"cw1h,omitempty"`
	CacheRead    int64          `json:"cr,omitempty"`
	Cost         dreamcore.Nano `json:"nano"`
	Estimated    bool           `json:"est,omitempty"`
}

// Tokens of the record.
func (r Record) Tokens() dreamcore.Tokens {
	return dreamcore.Tokens{Input: r.Input, Output: r.Output, CacheWrite: r.CacheWrite, CacheWrite1h: r.CacheWrite1h, CacheRead: r.CacheRead}
}

const (
	extension = ".ndjson"
	dayForm   = "2006-01-02"
	maxLine   = 8 << 10 // of a record; a longer line is none
	readSize  = 64 << 10
	maxName   = 256     // of a model, an upstream
	maxCount  = 1 << 42 // of tokens in one record
)

func dayOf(t time.Time) string   { return t.UTC().Format(dayForm) }
func monthOf(t time.Time) string { return t.UTC().Format("2006-01") }

// encode is the record as it is appended.
func (r Record) encode() ([]byte, error) {
	for _, s := range []*string{&r.User, &r.Project, &r.Job, &r.Model, &r.Upstream} {
		if len(*s) > maxName {
			*s = (*s)[:maxName]
		}
	}
	line, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode a record: %w", err)
	}
	return slices.Concat([]byte("\n"), line, []byte("\n")), nil
}

// readLines calls fn with each whole record from r, and returns how many bytes
// its whole lines have: what follows the last newline may still be written.
func readLines(r io.Reader, fn func(Record)) (size int64, err error) {
	br := bufio.NewReaderSize(r, readSize)
	var d decoder
	for tooLong := false; ; {
		line, err := br.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			tooLong = true
			size += int64(len(line))
			continue
		case errors.Is(err, io.EOF):
			return size, nil
		case err != nil:
			return size, fmt.Errorf("read the books: %w", err)
		}
		size += int64(len(line))
		if rec, ok := d.decode(line); ok && !tooLong && len(line) <= maxLine {
			fn(rec)
		}
		tooLong = false
	}
}

// days returns the names of the files of the books, the oldest first.
func days(root *os.Root) ([]string, error) {
	d, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		day, ok := strings.CutSuffix(name, extension)
		_, err := time.Parse(dayForm, day)
		return !ok || err != nil
	})
	slices.Sort(names)
	return names, nil
}

// Read calls fn with the records of the books in dir from since on. Books that
// nobody has opened yet are empty.
func Read(dir string, since time.Time, fn func(Record)) error {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return diskError("open the books", err)
	}
	defer root.Close()
	names, err := days(root)
	if err != nil {
		return diskError("list the books", err)
	}
	for _, name := range names {
		if strings.TrimSuffix(name, extension) < dayOf(since) {
			continue
		}
		if err := readFile(root, name, func(r Record) {
			if !r.Time.Before(since) {
				fn(r)
			}
		}); err != nil {
			return err
		}
	}
	return nil
}

func readFile(root *os.Root, name string, fn func(Record)) error {
	f, err := root.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil // removed meanwhile
	}
	if err != nil {
		return diskError("open the books", err)
	}
	defer f.Close()
	_, err = readLines(f, fn)
	return err
}

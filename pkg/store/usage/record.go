// Package usage keeps the ledger: what each job has spent on the model, what that
// costs, and who may spend more.
//
// The ledger is one file for each day (UTC), DATE.ndjson, to which every process of
// the state directory appends. Records only ever add: the input of a request is
// written when the model reports it, the rest at the end of the request, so that a
// killed process loses only the usage that was not reported yet. A record is one
// write to a file that is open for appending, which Linux does in one piece, and it
// begins with a newline, which ends the torn line of a process that died: so
// writers need no lock.
//
//	ledger, err := usage.Open(dir, usage.Options{Prices: prices, Limits: limits})
//	job := ledger.Job(user, project, id)
//	update, err := job.Reserve(model, inputTokens, outputTokens) // *dreamcore.OverBudget
//	update(dreamcore.Spent{…}, false)                            // as it is reported
//	update(dreamcore.Spent{…}, true)                             // the total, once
//	err = ledger.Close()
//
// A plain file was faster than a database here: it is appended to once or twice for
// each request (84 µs with all checks), summed from the beginning of the month at
// the start, and can be read with any tool. The file of a closed day gets its sums,
// in DATE.sums: with them, the start in a month of 300,000 requests takes 40 ms
// instead of half a second. Nothing depends on them.
package usage

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// Record is one line of the ledger. The sum of all records is the total spending.
type Record struct {
	Time         time.Time      `json:"t"`
	User         string         `json:"user"`
	Project      string         `json:"project"`
	Job          string         `json:"job"`
	Model        string         `json:"model"`
	Upstream     string         `json:"upstream,omitempty"`
	Requests     int64          `json:"n,omitempty"` // 1 in the first record of each request
	Input        int64          `json:"in,omitempty"`
	Output       int64          `json:"out,omitempty"`
	CacheWrite   int64          `json:"cw,omitempty"`
	CacheWrite1h int64          `json:"cw1h,omitempty"`
	CacheRead    int64          `json:"cr,omitempty"`
	Cost         dreamcore.Nano `json:"nano"`
	Estimated    bool           `json:"est,omitempty"`
	// Moved says that the user has spent it in another cell, whose ledger has the record
	// too: it counts for the user, but neither for this machine nor in reports.
	Moved bool `json:"moved,omitempty"`
}

// Tokens returns the tokens of the record.
func (r Record) Tokens() dreamcore.Tokens {
	return dreamcore.Tokens{Input: r.Input, Output: r.Output, CacheWrite: r.CacheWrite, CacheWrite1h: r.CacheWrite1h, CacheRead: r.CacheRead}
}

const (
	extension = ".ndjson"
	dayForm   = "2006-01-02"
	maxLine   = 8 << 10 // bytes of a record; longer lines are skipped
	maxName   = 256     // bytes of the name of a model or an upstream
	maxCount  = 1 << 42 // tokens in one record
)

func dayOf(t time.Time) string   { return t.UTC().Format(dayForm) }
func monthOf(t time.Time) string { return t.UTC().Format("2006-01") }

// encode returns the record as it is appended to the ledger.
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
	return statefile.Frame(line), nil
}

// readLines calls fn with each record in the whole lines of r and returns the size
// of those lines.
func readLines(r io.Reader, fn func(Record)) (size int64, err error) {
	var d decoder
	size, err = statefile.Lines(r, maxLine, func(line []byte) bool {
		if rec, ok := d.decode(line); ok {
			fn(rec)
		}
		return true
	})
	if err != nil {
		return size, fmt.Errorf("read the ledger: %w", err)
	}
	return size, nil
}

// days returns the names of the files of the ledger, the oldest first.
func days(root *os.Root) ([]string, error) {
	return statefile.Names(root, func(name string) bool {
		day, ok := strings.CutSuffix(name, extension)
		_, err := time.Parse(dayForm, day)
		return ok && err == nil
	})
}

// Read calls fn with the records in dir from since on. A missing ledger is empty.
func Read(dir string, since time.Time, fn func(Record)) error {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return diskError("open the ledger", err)
	}
	defer root.Close()
	return read(root, since, fn)
}

func read(root *os.Root, since time.Time, fn func(Record)) error {
	names, err := days(root)
	if err != nil {
		return diskError("list the ledger", err)
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
		return diskError("open the ledger", err)
	}
	defer f.Close()
	_, err = readLines(f, fn)
	return err
}

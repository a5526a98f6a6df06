package usage

import (
	"bytes"
	"errors"
	"io"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// WriteUser writes the records of a user in dir, as lines that Import reads.
func WriteUser(dir string, user dreamcore.UserID, w io.Writer) error {
	var failed error
	err := Read(dir, time.Time{}, func(r Record) {
		if r.User != string(user) || failed != nil {
			return
		}
		line, err := r.encode()
		if err == nil {
			_, err = w.Write(append(bytes.Trim(line, "\n"), '\n'))
		}
		failed = err
	})
	return errors.Join(err, failed)
}

// identity is what two copies of a record have in common.
type identity struct {
	at                  int64
	project, job, model string
	requests            int64
	tokens              dreamcore.Tokens
	cost                dreamcore.Nano
}

func identityOf(r Record) identity {
	return identity{r.Time.UnixNano(), r.Project, r.Job, r.Model, r.Requests, r.Tokens(), r.Cost}
}

// maxImported bounds the records of one user that Import takes.
const maxImported = 1 << 20

// Import takes over what a user has spent in another cell, which wrote the records with
// WriteUser. Each is counted once, also if it is imported again or the user comes back.
// CodeInvalid: a line is not a record of the user, or there are too many. It must be
// called once at a time.
func (l *Ledger) Import(user dreamcore.UserID, from io.Reader) (imported int, err error) {
	all, err := readImported(user, from)
	if err != nil || len(all) == 0 {
		return 0, err
	}
	known := map[identity]int{}
	if err := read(l.root, time.Time{}, func(r Record) {
		if r.User == string(user) {
			known[identityOf(r)]++
		}
	}); err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.opts.Now()
	if err := l.ready(now); err != nil {
		return 0, err
	}
	oldest := dayOf(now.AddDate(0, 0, -l.opts.Days))
	for _, r := range all {
		if known[identityOf(r)]--; known[identityOf(r)] >= 0 {
			continue
		}
		if day := dayOf(r.Time); day < oldest && monthOf(r.Time) != l.month {
			continue // it would be removed again
		}
		r.Moved = true
		if err := l.append(r); err != nil {
			return imported, err
		}
		imported++
	}
	err = l.sync()
	l.closeFiles(now, false)
	return imported, err
}

// readImported reads and checks the records of an import.
func readImported(user dreamcore.UserID, from io.Reader) (all []Record, err error) {
	bad := false
	in := &countedReader{r: from}
	whole, err := readLines(in, func(r Record) {
		if r.User != string(user) || len(all) == maxImported {
			bad = true
			return
		}
		all = append(all, r)
	})
	if err != nil {
		return nil, err
	}
	if bad || whole != in.n {
		return nil, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "the ledger in the archive is not one of this user", Hint: "make the archive again"}
	}
	return all, nil
}

// countedReader counts the bytes that are read.
type countedReader struct {
	r io.Reader
	n int64
}

func (c *countedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

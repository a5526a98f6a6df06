package usage

import (
	"bytes"
	"encoding/json"
)

// decoder reads lines of the books. Nearly all are as encode has written them:
// those take a twentieth of the time of encoding/json, which reads the others
// and says what is a record.
type decoder struct {
	rec   Record            // that is being read: here it needs no memory of its own
	names map[string]string // that were seen: users, models … repeat themselves
}

// maxNames bounds what a decoder keeps.
const maxNames = 1 << 14

// decode reads a line. What somebody who died has left half of, and what is no
// record, is told by false and counts nothing.
func (d *decoder) decode(line []byte) (Record, bool) {
	line = bytes.Trim(line, " \t\r\n") // what JSON takes for space
	if len(line) == 0 {
		return Record{}, false
	}
	if d.rec = (Record{}); !d.plain(line) {
		if d.rec = (Record{}); json.Unmarshal(line, &d.rec) != nil {
			return Record{}, false
		}
	}
	return d.rec, d.rec.possible()
}

// possible tells whether Reserve could have written the record.
func (r Record) possible() bool {
	if r.Time.IsZero() || r.Cost < 0 || r.Requests < 0 || r.Requests > 1 {
		return false
	}
	for _, n := range [...]int64{r.Input, r.Output, r.CacheWrite, r.CacheWrite1h, r.CacheRead} {
		if n < 0 || n > maxCount {
			return false
		}
	}
	return true
}

// plain reads a line that has the fields in the order of Record, each at most
// once, nothing that is escaped, and no spaces. It must return what
// encoding/json would, or false: a test compares the two.
func (d *decoder) plain(line []byte) bool {
	r, s := &d.rec, scanner{rest: line}
	if !s.skip(`{"t":`) {
		return false
	}
	t := s.text()
	if len(t) < 2 || r.Time.UnmarshalJSON(t) != nil {
		return false
	}
	for _, f := range [...]struct {
		key      string
		optional bool
		into     *string
	}{
		{`,"user":`, false, &r.User}, {`,"project":`, false, &r.Project}, {`,"job":`, false, &r.Job},
		{`,"model":`, false, &r.Model}, {`,"upstream":`, true, &r.Upstream},
	} {
		if s.skip(f.key) {
			t := s.text()
			if len(t) < 2 {
				return false
			}
			*f.into = d.name(t[1 : len(t)-1])
		} else if !f.optional {
			return false
		}
	}
	for _, f := range [...]struct {
		key  string
		into *int64
	}{
		{`,"n":`, &r.Requests}, {`,"in":`, &r.Input}, {`,"out":`, &r.Output},
		{`,"cw":`, &r.CacheWrite}, {`,"cw1h":`, &r.CacheWrite1h}, {`,"cr":`, &r.CacheRead}, {`,"nano":`, (*int64)(&r.Cost)},
	} {
		if s.skip(f.key) {
			n, ok := s.number()
			if !ok {
				return false
			}
			*f.into = n
		}
	}
	r.Estimated = s.skip(`,"est":true`)
	return s.skip("}") && len(s.rest) == 0
}

func (d *decoder) name(b []byte) string {
	if s, ok := d.names[string(b)]; ok {
		return s
	}
	if d.names == nil || len(d.names) >= maxNames {
		d.names = map[string]string{}
	}
	s := string(b)
	d.names[s] = s
	return s
}

// scanner is what is left of a line.
type scanner struct{ rest []byte }

func (s *scanner) skip(text string) bool {
	if len(s.rest) < len(text) || string(s.rest[:len(text)]) != text {
		return false
	}
	s.rest = s.rest[len(text):]
	return true
}

// text takes a string with its quotes; nothing where there is none, or one that
// is more than printable ASCII or has anything escaped.
func (s *scanner) text() []byte {
	if len(s.rest) == 0 || s.rest[0] != '"' {
		return nil
	}
	for i, c := range s.rest[1:] {
		switch {
		case c == '"':
			t := s.rest[:i+2]
			s.rest = s.rest[i+2:]
			return t
		case c < ' ' || c > '~' || c == '\\':
			return nil
		}
	}
	return nil
}

// number takes a whole number that is not negative.
func (s *scanner) number() (n int64, ok bool) {
	const maxDigits = 18 // that surely fit
	i := 0
	for ; i < len(s.rest) && s.rest[i] >= '0' && s.rest[i] <= '9'; i++ {
		if i == maxDigits {
			return 0, false
		}
		n = n*10 + int64(s.rest[i]-'0')
	}
	ok = i == 1 || i > 1 && s.rest[0] != '0'
	s.rest = s.rest[i:]
	return n, ok
}

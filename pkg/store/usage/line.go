package usage

import (
	"bytes"
	"encoding/json"
)

// decoder decodes lines of the ledger. Nearly all have the form that encode writes:
// those take a twentieth of the time of encoding/json, which decodes the others and
// defines what a record is.
type decoder struct {
	rec   Record            // the current one, here to save an allocation
	names map[string]string // interned: users, models and so on repeat
}

// maxNames bounds the interned names.
const maxNames = 1 << 14

// decode decodes a line. It reports false for anything that is not a record, such
// as a torn line.
func (d *decoder) decode(line []byte) (Record, bool) {
	line = bytes.Trim(line, " \t\r\n") // the white space of JSON
	if len(line) == 0 {
		return Record{}, false
	}
	if d.rec = (Record{}); !d.decodeFast(line) {
		if d.rec = (Record{}); json.Unmarshal(line, &d.rec) != nil {
			return Record{}, false
		}
	}
	return d.rec, d.rec.valid()
}

// valid reports whether Reserve could have written the record.
func (r Record) valid() bool {
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

// decodeFast decodes a line that has the fields in the order of Record, each at
// most once, nothing escaped, and no spaces. It must return what encoding/json
// would, or false: a test compares the two.
func (d *decoder) decodeFast(line []byte) bool {
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
	r.Moved = s.skip(`,"moved":true`)
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

// scanner is the rest of a line.
type scanner struct{ rest []byte }

func (s *scanner) skip(text string) bool {
	if len(s.rest) < len(text) || string(s.rest[:len(text)]) != text {
		return false
	}
	s.rest = s.rest[len(text):]
	return true
}

// text consumes a string and returns it with its quotes, or nil if the line does
// not continue with a string of printable ASCII without escapes.
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

// number consumes a non-negative integer.
func (s *scanner) number() (n int64, ok bool) {
	const maxDigits = 18 // always fit
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

package gateway

import (
	"bytes"
	"encoding/json"
	"io"
	"net/url"
	"slices"
	"strings"
)

// minScrubbed is the shortest credential that is looked for in good answers. A
// shorter one is no credential but a word for an upstream that wants any, and
// would be found in every text.
const minScrubbed = 8

// encodings are the ways in which an answer may repeat a credential, the longest
// first: a shorter one may be the beginning of a longer.
func encodings(credential string) []string {
	list := []string{credential, url.QueryEscape(credential), url.PathEscape(credential), strings.ReplaceAll(credential, "/", `\/`)}
	if quoted, err := json.Marshal(credential); err == nil {
		list = append(list, string(quoted[1:len(quoted)-1]))
	}
	slices.SortFunc(list, func(a, b string) int {
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return strings.Compare(a, b)
	})
	return slices.Compact(list)
}

// scrub returns body with stars in place of the credentials: a proxy that stands
// in for the API may repeat what it was sent. The length stays the same.
func scrub(body io.ReadCloser, credentials []string) io.ReadCloser {
	s := &scrubber{ReadCloser: body}
	for _, c := range credentials {
		if len(c) < minScrubbed {
			continue
		}
		for _, w := range encodings(c) {
			s.wanted = append(s.wanted, []byte(w))
		}
	}
	if len(s.wanted) == 0 {
		return body
	}
	// Room for a step beside what is held back.
	s.buf = make([]byte, relayStep+len(slices.MaxFunc(s.wanted, func(a, b []byte) int { return len(a) - len(b) })))
	return s
}

// scrubber replaces credentials in a stream. It holds back no more than what
// may be the beginning of one, so that events pass as they come.
type scrubber struct {
	io.ReadCloser
	wanted  [][]byte
	buf     []byte
	pending []byte // of buf: read and not given out
	ready   int    // of pending: looked at, may go out
	err     error  // that comes after pending
}

func (s *scrubber) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for s.ready == 0 {
		if s.err != nil {
			return 0, s.err
		}
		// What was held back moves to the front, before what is read now.
		held := copy(s.buf, s.pending)
		n, err := s.ReadCloser.Read(s.buf[held:])
		s.pending, s.err = s.buf[:held+n], err
		s.look()
	}
	n := copy(p, s.pending[:s.ready])
	s.pending, s.ready = s.pending[n:], s.ready-n
	return n, nil
}

// look replaces what is whole in pending and finds how much of it may go out.
func (s *scrubber) look() {
	for _, w := range s.wanted {
		for rest := s.pending; ; {
			at := bytes.Index(rest, w)
			if at < 0 {
				break
			}
			for i := range w {
				rest[at+i] = '*'
			}
			rest = rest[at+len(w):]
		}
	}
	s.ready = len(s.pending)
	if s.err == io.EOF {
		return // nothing follows that would make a credential of it
	}
	for _, w := range s.wanted {
		s.ready = min(s.ready, len(s.pending)-partialSuffix(s.pending, w))
	}
}

// begun is how many bytes at the end of b may be the beginning of w, which is
// not there as a whole.
func partialSuffix(b, w []byte) int {
	tail := b[max(0, len(b)-len(w)+1):]
	for len(tail) > 0 && !bytes.HasPrefix(w, tail) {
		next := bytes.IndexByte(tail[1:], w[0])
		if next < 0 {
			return 0
		}
		tail = tail[1+next:]
	}
	return len(tail)
}

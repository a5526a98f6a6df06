package gateway

import (
	"bytes"
	"cmp"
	"encoding/json"
	"io"
	"net/url"
	"slices"
	"strings"
)

// minScrubbed is the length of the shortest credential that is masked in
// successful answers. A shorter one is not a real credential but a placeholder,
// and would match in any text.
const minScrubbed = 8

// encodings returns the forms in which an answer may repeat a credential, the
// longest first: a shorter one may be a prefix of a longer one.
func encodings(credential string) []string {
	list := []string{credential, url.QueryEscape(credential), url.PathEscape(credential), strings.ReplaceAll(credential, "/", `\/`)}
	if quoted, err := json.Marshal(credential); err == nil {
		list = append(list, string(quoted[1:len(quoted)-1]))
	}
	slices.SortFunc(list, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	return slices.Compact(list)
}

// scrub returns body with the credentials replaced by stars: a proxy in place of
// the API may echo a request. The length stays the same.
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
	// Room for one step in addition to the bytes that are held back.
	s.buf = make([]byte, relayStep+len(slices.MaxFunc(s.wanted, func(a, b []byte) int { return len(a) - len(b) })))
	return s
}

// scrubber replaces credentials in a stream. It holds back only bytes that may
// be the start of a credential, so that events pass as they arrive.
type scrubber struct {
	io.ReadCloser
	wanted  [][]byte
	buf     []byte
	pending []byte // part of buf that is not yet returned
	ready   int    // number of bytes of pending that may be returned
	err     error  // returned after pending
}

func (s *scrubber) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for s.ready == 0 {
		if s.err != nil {
			return 0, s.err
		}
		// The bytes held back move to the front, before the bytes read now.
		held := copy(s.buf, s.pending)
		n, err := s.ReadCloser.Read(s.buf[held:])
		s.pending, s.err = s.buf[:held+n], err
		s.replace()
	}
	n := copy(p, s.pending[:s.ready])
	s.pending, s.ready = s.pending[n:], s.ready-n
	return n, nil
}

// replace masks the complete credentials in pending and determines how many
// bytes may be returned.
func (s *scrubber) replace() {
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
		return // nothing follows that could complete a credential
	}
	for _, w := range s.wanted {
		s.ready = min(s.ready, len(s.pending)-partialSuffix(s.pending, w))
	}
}

// partialSuffix returns how many bytes at the end of b may be the start of w,
// which b does not contain completely.
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

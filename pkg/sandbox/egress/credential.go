package egress

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// minSecret is the minimum length of a value: shorter ones would occur in
// responses by chance.
const minSecret = 8

// credential is the value of an injection for one request.
type credential struct {
	header string
	value  string   // complete header value
	forms  []string // encodings in which responses may repeat the secret
}

// credential returns the current secret of an injection.
func (p *Proxy) credential(i Injection) (credential, error) {
	v, err := p.cfg.Secret(i)
	if err != nil {
		return credential{}, err
	}
	v = strings.TrimRight(v, "\r\n") // files end with a newline
	if len(v) < minSecret || !httpguts.ValidHeaderFieldValue(v) || strings.TrimSpace(v) != v {
		return credential{}, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "the secret " + i.Secret + " is not a valid header value", Err: errors.New("it must be one line of at least 8 characters"),
			Hint: "set it again: dreamcore secret create " + i.Secret + " KEY=value --force",
		}
	}
	c := credential{header: i.Header, value: v, forms: formsOf(v)}
	if i.Scheme != "" {
		c.value = i.Scheme + " " + v
	}
	return c, nil
}

// formsOf returns the encodings in which a response may repeat a value.
func formsOf(v string) []string {
	forms := []string{v, url.QueryEscape(v), url.PathEscape(v), strings.ReplaceAll(v, "/", `\/`)}
	if raw, err := json.Marshal(v); err == nil {
		forms = append(forms, string(raw[1:len(raw)-1]))
	}
	slices.SortFunc(forms, func(a, b string) int {
		if len(a) != len(b) {
			return len(b) - len(a) // a shorter one may be the prefix of a longer one
		}
		return strings.Compare(a, b)
	})
	return slices.Compact(forms)
}

// put sets the header and removes everything that the sandbox sent under its
// name, including with underscores, which many servers treat as dashes.
func (c credential) put(h http.Header) {
	for name := range h {
		if strings.EqualFold(strings.ReplaceAll(name, "_", "-"), strings.ReplaceAll(c.header, "_", "-")) {
			delete(h, name)
		}
	}
	h[c.header] = []string{c.value}
}

// clean replaces the value in a text.
func (c credential) clean(s string) string {
	for _, f := range c.forms {
		s = strings.ReplaceAll(s, f, strings.Repeat("*", len(f)))
	}
	return s
}

// scrub removes the value from headers.
func (c credential) scrub(h http.Header) {
	for name, values := range h {
		for i, v := range values {
			values[i] = c.clean(v)
		}
		if c.named(name) {
			delete(h, name)
		}
	}
}

// named reports whether the name of a header contains the value, ignoring case,
// which header names do not preserve.
func (c credential) named(s string) bool {
	return slices.ContainsFunc(c.forms, func(f string) bool { return strings.Contains(strings.ToLower(s), strings.ToLower(f)) })
}

// redact returns a body without the value, of the same length. done is called at
// the body's end, when the trailers are available.
func (c credential) redact(body io.ReadCloser, done func()) io.ReadCloser {
	r := &redactor{ReadCloser: body, done: done, buf: make([]byte, 32<<10)}
	for _, f := range c.forms {
		r.forms = append(r.forms, []byte(f))
	}
	return r
}

// redactor replaces values in a stream by stars. It holds back only bytes that
// may be the beginning of a value, so that events pass without delay.
type redactor struct {
	io.ReadCloser
	forms   [][]byte
	done    func()
	buf     []byte
	pending []byte // read but not yet returned
	ready   int    // length of the prefix of pending that may be returned
	err     error  // returned after pending
}

func (r *redactor) Read(p []byte) (int, error) {
	for r.ready == 0 {
		if r.err != nil {
			return 0, r.err
		}
		n, err := r.ReadCloser.Read(r.buf)
		r.pending = append(r.pending, r.buf[:n]...)
		if err != nil {
			r.err = err
			if errors.Is(err, io.EOF) {
				r.done()
			}
		}
		r.scan()
	}
	n := copy(p, r.pending[:r.ready])
	r.pending, r.ready = r.pending[n:], r.ready-n
	return n, nil
}

// scan replaces every value in pending and sets ready.
func (r *redactor) scan() {
	for _, f := range r.forms {
		for at := 0; ; {
			i := bytes.Index(r.pending[at:], f)
			if i < 0 {
				break
			}
			at += i
			copy(r.pending[at:at+len(f)], bytes.Repeat([]byte("*"), len(f)))
			at += len(f)
		}
	}
	r.ready = len(r.pending)
	if r.err != nil && errors.Is(r.err, io.EOF) {
		return // the rest cannot become a value any more
	}
	for _, f := range r.forms {
		for n := min(len(f)-1, len(r.pending)); n > 0; n-- {
			if bytes.HasSuffix(r.pending, f[:n]) {
				r.ready = min(r.ready, len(r.pending)-n)
				break
			}
		}
	}
}

package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// maxAnswer bounds a JSON answer, in bytes.
const maxAnswer = 1 << 20

// answer is a JSON object. Its members are looked up by their exact names:
// encoding/json would accept another case too, which other clients do not.
type answer map[string]json.RawMessage

// json sends r and returns the response and its body, with any status.
func (c *Client) json(ctx context.Context, r call) (resp *http.Response, body []byte, err error) {
	limit, timeout := cmp.Or(r.limit, maxAnswer), max(r.timeout, c.opts.Timeout)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, &errTimeout{"answer", timeout})
	defer cancel()
	resp, err = c.do(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, nil, c.transportError(ctx, r.name, fmt.Errorf("read answer: %w", err))
	}
	if int64(len(body)) > limit {
		return nil, nil, c.malformed(r.name, fmt.Sprintf("it is longer than %d MiB", limit>>20))
	}
	return resp, body, nil
}

// ok returns the body of the answer; every status except 200 is an error.
func (c *Client) ok(ctx context.Context, r call) ([]byte, error) {
	resp, body, err := c.json(ctx, r)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = c.statusError(r.name, resp, body[:min(len(body), maxAnswer)])
	}
	return body, err
}

// object returns the answer as an object.
func (c *Client) object(ctx context.Context, r call) (answer, error) {
	body, err := c.ok(ctx, r)
	if err != nil {
		return nil, err
	}
	return c.parse(r.name, body)
}

func (c *Client) parse(name string, body []byte) (answer, error) {
	body = bytes.Trim(body, space)
	if len(body) == 0 {
		return nil, c.malformed(name, "it is empty")
	}
	var a answer
	if err := json.Unmarshal(body, &a); err != nil || a == nil {
		return nil, c.malformed(name, fmt.Sprintf("not a JSON object; it begins with %q", c.text(string(body[:min(len(body), 80)]))))
	}
	return a, nil
}

// reader decodes members of an answer and records the first fault.
type reader struct {
	a     answer
	fault string
}

func (r *reader) decode(name string, to any, kind string) {
	raw, ok := r.a[name]
	switch {
	case r.fault != "":
	case !ok:
		r.fault = fmt.Sprintf("%q is missing", name)
	case string(raw) == "null" || json.Unmarshal(raw, to) != nil:
		r.fault = fmt.Sprintf("%q is not a %s", name, kind)
	}
}

func (r *reader) text(name string) (s string) {
	r.decode(name, &s, "string")
	return s
}

func (r *reader) flag(name string) (b bool) {
	r.decode(name, &b, "boolean")
	return b
}

// optional returns the text called name, or "" if it is missing.
func (r *reader) optional(name string) string {
	if _, ok := r.a[name]; !ok {
		return ""
	}
	return r.text(name)
}

// check posts to a test endpoint. A check that failed on the server
// ("success":false) is an error with the server's reason; its answer needs no
// other members.
func (c *Client) check(ctx context.Context, name string, body []byte) (*reader, error) {
	a, err := c.object(ctx, c.post(name, body))
	if err != nil {
		return nil, err
	}
	r := &reader{a: a}
	if r.flag("success") || r.fault != "" {
		return r, nil
	}
	reason := cmp.Or(c.text(r.optional("error")), "no reason given")
	return nil, &dreamcore.Error{Code: dreamcore.CodeInternal, Message: "the server reports: " + reason}
}

func (c *Client) finish(name string, r *reader) error {
	if r.fault != "" {
		return c.malformed(name, r.fault)
	}
	return nil
}

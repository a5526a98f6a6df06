package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

// maxAnswer bounds a JSON answer, in bytes.
const maxAnswer = 1 << 20

// answer is a JSON object; its members are read by their exact names.
// encoding/json would also take another case, which other clients do not.
type answer map[string]json.RawMessage

// json sends r and returns the status, and the object of the answer whatever
// the status is. body is the beginning of the answer.
func (c *Client) json(ctx context.Context, r call) (resp *http.Response, body []byte, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.opts.Timeout, &errTimeout{"answer", c.opts.Timeout})
	defer cancel()
	resp, err = c.do(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, nil, c.transportError(ctx, r.name, fmt.Errorf("read answer: %w", err))
	}
	if len(body) > maxAnswer {
		return nil, nil, c.malformed(r.name, "it is longer than 1 MiB")
	}
	return resp, body, nil
}

// object is json for calls where only 200 is an answer.
func (c *Client) object(ctx context.Context, r call) (answer, error) {
	resp, body, err := c.json(ctx, r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, c.statusError(r.name, resp, body)
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
		return nil, c.malformed(name, fmt.Sprintf("no JSON object, it begins with %q", c.text(string(body[:min(len(body), 80)]))))
	}
	return a, nil
}

// reader takes members of an answer and keeps the first fault.
type reader struct {
	a     answer
	fault string
}

func (r *reader) take(name string, to any, kind string) {
	raw, ok := r.a[name]
	switch {
	case r.fault != "":
	case !ok:
		r.fault = fmt.Sprintf("%q is missing", name)
	case string(raw) == "null" || json.Unmarshal(raw, to) != nil:
		r.fault = fmt.Sprintf("%q is no %s", name, kind)
	}
}

func (r *reader) text(name string) (s string) {
	r.take(name, &s, "string")
	return s
}

func (r *reader) flag(name string) (b bool) {
	r.take(name, &b, "boolean")
	return b
}

// optional returns the text called name, or "" if it is not there.
func (r *reader) optional(name string) string {
	if _, ok := r.a[name]; !ok {
		return ""
	}
	return r.text(name)
}

// check posts to a test endpoint. A check that failed on the server, which
// "success":false tells, comes back as reason; the other members are promised
// only without it.
func (c *Client) check(ctx context.Context, name string) (r *reader, reason string, err error) {
	a, err := c.object(ctx, c.post(name, []byte("{}")))
	if err != nil {
		return nil, "", err
	}
	r = &reader{a: a}
	if r.flag("success") || r.fault != "" {
		return r, "", nil
	}
	reason = c.text(r.optional("error"))
	if reason == "" {
		reason = "no reason given"
	}
	return r, reason, nil
}

func (c *Client) finish(name string, r *reader) error {
	if r.fault != "" {
		return c.malformed(name, r.fault)
	}
	return nil
}

package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"unicode/utf8"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// codeSlow is an error code of HTTP alone: a body that does not come.
const codeSlow dreamcore.Code = "REQUEST_TIMEOUT"

// readBody reads a request body within its limits. Where it fails, it has
// answered and returns false. After it, the end of the client is seen as the
// end of the request's context.
func (x *exchange) readBody(r *http.Request) ([]byte, bool) {
	var b bytes.Buffer
	ok := x.copyBody(&b, r, x.limits.MaxBody)
	return b.Bytes(), ok
}

// skipBody is readBody for endpoints that want nothing of it.
func (x *exchange) skipBody(r *http.Request) bool { return x.copyBody(io.Discard, r, x.limits.MaxBody) }

func (x *exchange) copyBody(w io.Writer, r *http.Request, limit int64) bool {
	// A length that says it already spares the client the upload: nothing was
	// read, so a client that expects "100 Continue" has not begun.
	if r.ContentLength > limit {
		x.refuse(r, tooLarge(limit))
		return false
	}
	// http.Server bounds the time, and lifts that bound at the end of the body.
	n, err := io.Copy(w, io.LimitReader(r.Body, limit+1))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		x.refuse(r, &dreamcore.Error{Code: codeSlow, Message: "The request body came too slowly", Err: err})
		return false
	case err != nil:
		// Broken chunks, or the client is gone and nobody reads this.
		x.refuse(r, invalidJSON(fmt.Errorf("read the body: %w", err)))
		return false
	case n > limit:
		x.refuse(r, tooLarge(limit))
		return false
	}
	return true
}

func tooLarge(limit int64) error {
	return &dreamcore.Error{
		Code: dreamcore.CodeTooLarge, Message: "Request body too large",
		Hint: fmt.Sprintf("send at most %d bytes", limit),
	}
}

func invalidJSON(cause error) error {
	return &dreamcore.Error{
		Code: dreamcore.CodeInvalid, Message: "Invalid JSON", Err: cause,
		Hint: "send one JSON object in UTF-8",
	}
}

// notText stands for a field that is there and is no string. No check of a
// field's format accepts it.
const notText = "(not a string)"

// decodeRequest reads the request for a game. It fails if body is no JSON
// object or detach is no boolean: other fields are for Request.Validate.
// Unknown fields are left out, null is as good as missing, and of a name that
// occurs twice the last one counts, as in the old backend.
func decodeRequest(body []byte) (dreamcore.Request, error) {
	fields := map[string]json.RawMessage{"user_id": nil, "project_id": nil, "prompt": nil, "_test_error": nil, "detach": nil}
	if err := decodeObject(body, fields); err != nil {
		return dreamcore.Request{}, invalidJSON(err)
	}
	r := dreamcore.Request{
		UserID:    text(fields["user_id"], notText),
		ProjectID: text(fields["project_id"], notText),
		Prompt:    text(fields["prompt"], ""), // "prompt is required", which it is
		TestError: text(fields["_test_error"], notText),
	}
	var err error
	r.Detach, err = flag("detach", fields["detach"])
	return r, err
}

// flag is the value of a boolean member; missing and null are false.
func flag(name string, raw json.RawMessage) (bool, error) {
	switch string(raw) {
	case "", "null", "false":
		return false, nil
	case "true":
		return true, nil
	}
	return false, &dreamcore.Error{
		Code: dreamcore.CodeInvalid, Message: "Invalid " + name + ": must be a boolean", Hint: "use true or false",
	}
}

// decodeObject fills the wanted members of a JSON object into fields. Names
// are compared exactly, unlike in encoding/json's structs.
func decodeObject(body []byte, fields map[string]json.RawMessage) error {
	body = bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))
	switch {
	case !utf8.Valid(body):
		return errors.New("the body is not UTF-8")
	case !json.Valid(body): // also bounds the depth, and refuses what follows the value
		return errors.New("the body is not one JSON value")
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return errors.New("the body is not a JSON object")
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return err
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return err
		}
		if _, wanted := fields[name.(string)]; wanted {
			fields[name.(string)] = value
		}
	}
	return nil
}

// text is the value of a string member; missing and null give "".
func text(raw json.RawMessage, otherwise string) string {
	if len(raw) == 0 || string(raw) == "null" {
		return ""
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return otherwise
	}
	return s
}

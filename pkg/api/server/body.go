package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
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

// codeEncoding is an error code of HTTP alone: a body that is compressed.
const codeEncoding dreamcore.Code = "UNSUPPORTED_MEDIA_TYPE"

// checkEncoding refuses a body that is compressed, or encoded in another way:
// it would be read as broken JSON.
func checkEncoding(r *http.Request) error {
	if r.ContentLength == 0 {
		return nil // no body
	}
	for _, list := range r.Header.Values("Content-Encoding") {
		for name := range strings.SplitSeq(list, ",") {
			if name = strings.TrimSpace(name); name != "" && !strings.EqualFold(name, "identity") {
				return &dreamcore.Error{
					Code: codeEncoding, Message: "Unsupported Content-Encoding: " + clip(name),
					Hint: "send the body as it is, without Content-Encoding",
				}
			}
		}
	}
	return nil
}

// decodeRequest reads the request for a game. Its errors are a body that is no
// JSON object, bad ids, and fields of the wrong type that the old backend did
// not have; the rest is for Request.Validate. Unknown fields are left out, null
// is as good as missing, and of a name that occurs twice the last one counts, as
// in the old backend.
func decodeRequest(body []byte) (dreamcore.Request, error) {
	fields := map[string]json.RawMessage{
		"user_id": nil, "project_id": nil, "prompt": nil, "_test_error": nil, "detach": nil, "commit_message": nil,
	}
	if err := decodeObject(body, fields); err != nil {
		return dreamcore.Request{}, invalidJSON(err)
	}
	user, err := userField(fields["user_id"])
	if err != nil {
		return dreamcore.Request{}, err
	}
	project, err := projectField(fields["project_id"])
	if err != nil {
		return dreamcore.Request{}, err
	}
	r := dreamcore.Request{
		UserID:    string(user),
		ProjectID: string(project),
		Prompt:    text(fields["prompt"], ""), // "prompt is required", which it is
		TestError: text(fields["_test_error"], ""),
	}
	var ok bool
	if r.CommitMessage, ok = textOf(fields["commit_message"]); !ok {
		return r, dreamcore.ErrCommitMessage()
	}
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

// userField is the user that a member names.
func userField(raw json.RawMessage) (dreamcore.UserID, error) {
	return dreamcore.ParseUserID(idText(raw))
}

// projectField is the project that a member names.
func projectField(raw json.RawMessage) (dreamcore.ProjectID, error) {
	return dreamcore.ParseProjectID(idText(raw))
}

// idText is the text of an id. What is no string is taken as it is written: no
// other JSON value looks like a UUID, so the format is what is wrong with it.
func idText(raw json.RawMessage) string {
	if s, ok := textOf(raw); ok {
		return s
	}
	return string(raw)
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

// textOf is the value of a string member; missing and null give "". ok is false
// for a value of another type. No string stands for that: every string can be
// a client's own text.
func textOf(raw json.RawMessage) (s string, ok bool) {
	if len(raw) == 0 || string(raw) == "null" {
		return "", true
	}
	if json.Unmarshal(raw, &s) != nil {
		return "", false
	}
	return s, true
}

// text is textOf with a default for a value of another type.
func text(raw json.RawMessage, otherwise string) string {
	if s, ok := textOf(raw); ok {
		return s
	}
	return otherwise
}

// textField is textOf for a member of which a value of another type is refused
// by name.
func textField(fields map[string]json.RawMessage, name string) (string, error) {
	s, ok := textOf(fields[name])
	if !ok {
		return "", &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid " + name + ": must be a string"}
	}
	return s, nil
}

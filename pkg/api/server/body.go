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

// codeSlow is an error code used only in HTTP responses, for a body that is not
// received in time.
const codeSlow dreamcore.Code = "REQUEST_TIMEOUT"

// readBody reads a request body within its limits. On failure it sends an error
// response and returns false. After the body, a disconnecting client ends the
// request's context.
func (x *exchange) readBody(r *http.Request) ([]byte, bool) {
	var b bytes.Buffer
	ok := x.copyBody(&b, r, x.limits.MaxBody)
	return b.Bytes(), ok
}

// readMembers reads the named members of a JSON object. An empty body has none of them.
// On failure it sends an error response and returns false.
func (x *exchange) readMembers(r *http.Request, names ...string) (fields map[string]json.RawMessage, ok bool) {
	body, ok := x.readBody(r)
	if !ok {
		return nil, false
	}
	fields = map[string]json.RawMessage{}
	for _, name := range names {
		fields[name] = nil
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return fields, true
	}
	if err := decodeObject(body, fields); err != nil {
		x.fail(invalidJSON(err))
		return nil, false
	}
	return fields, true
}

// skipBody is like readBody for endpoints that ignore the body.
func (x *exchange) skipBody(r *http.Request) bool { return x.copyBody(io.Discard, r, x.limits.MaxBody) }

func (x *exchange) copyBody(w io.Writer, r *http.Request, limit int64) bool {
	// Refusing by the declared length avoids the upload: nothing was read, so
	// a client that expects "100 Continue" has not started to send.
	if r.ContentLength > limit {
		x.refuse(r, tooLarge(limit))
		return false
	}
	// http.Server limits the time, and lifts that limit at the end of the body.
	n, err := io.Copy(w, io.LimitReader(r.Body, limit+1))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		x.refuse(r, &dreamcore.Error{Code: codeSlow, Message: "The request body came too slowly", Err: err})
		return false
	case err != nil:
		// Malformed chunks, or the client has disconnected.
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

// codeEncoding is an error code used only in HTTP responses, for a compressed body.
const codeEncoding dreamcore.Code = "UNSUPPORTED_MEDIA_TYPE"

// checkEncoding refuses bodies with a Content-Encoding, which would otherwise be
// reported as invalid JSON.
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

// decodeRequest decodes the request for a game. It returns errors for a body that
// is not a JSON object, for invalid ids, and for fields of a wrong type that the
// old backend did not have; Request.Validate checks the rest. As in the old
// backend, unknown fields are ignored, null means missing, and the last of
// duplicate names counts.
func decodeRequest(body []byte) (dreamcore.Request, error) {
	fields := map[string]json.RawMessage{
		"user_id": nil, "project_id": nil, "prompt": nil, "_test_error": nil, "detach": nil, "commit_message": nil,
		"webhook_url": nil,
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
		Prompt:    text(fields["prompt"], ""), // a wrong type is reported as "prompt is required"
		TestError: text(fields["_test_error"], ""),
	}
	var ok bool
	if r.CommitMessage, ok = textOf(fields["commit_message"]); !ok {
		return r, dreamcore.ErrCommitMessage()
	}
	if r.WebhookURL, ok = textOf(fields["webhook_url"]); !ok {
		return r, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid webhook_url: must be text", Hint: "send an address, or omit it"}
	}
	r.Detach, err = flag("detach", fields["detach"])
	return r, err
}

// UserOf returns the text of the user id in a body, as every endpoint reads it: the
// last one of several. It returns "" for a body without one or that no endpoint
// accepts.
func UserOf(body []byte) string {
	fields := map[string]json.RawMessage{"user_id": nil}
	if decodeObject(body, fields) != nil {
		return ""
	}
	return text(fields["user_id"], "")
}

// BodyLimit returns the bound of the body of an endpoint, in bytes.
func BodyLimit(endpoint string) int64 {
	if endpoint == "apply_files" {
		return DefaultMaxApplyBody
	}
	return DefaultMaxBody
}

// flag returns the value of a boolean member; missing and null mean false.
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

// userField parses the user id in a member.
func userField(raw json.RawMessage) (dreamcore.UserID, error) {
	return dreamcore.ParseUserID(idText(raw))
}

// projectField parses the project id in a member.
func projectField(raw json.RawMessage) (dreamcore.ProjectID, error) {
	return dreamcore.ParseProjectID(idText(raw))
}

// idText returns the text of an id. Values of other types are returned as
// written: such a value never looks like a UUID, so the format error applies.
func idText(raw json.RawMessage) string {
	if s, ok := textOf(raw); ok {
		return s
	}
	return string(raw)
}

// decodeObject stores the wanted members of a JSON object in fields. Unlike
// encoding/json's structs, it compares names exactly.
func decodeObject(body []byte, fields map[string]json.RawMessage) error {
	body = bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))
	switch {
	case !utf8.Valid(body):
		return errors.New("the body is not UTF-8")
	case !json.Valid(body): // also limits the depth and refuses trailing data
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

// textOf returns the value of a string member; missing and null give "". ok is
// false for other types. No string could indicate that, because any string may
// be a client's own text.
func textOf(raw json.RawMessage) (s string, ok bool) {
	if len(raw) == 0 || string(raw) == "null" {
		return "", true
	}
	if json.Unmarshal(raw, &s) != nil {
		return "", false
	}
	return s, true
}

// text is like textOf with a default for values of other types.
func text(raw json.RawMessage, otherwise string) string {
	if s, ok := textOf(raw); ok {
		return s
	}
	return otherwise
}

// textField is like textOf, but returns an error that names the member for
// values of other types.
func textField(fields map[string]json.RawMessage, name string) (string, error) {
	s, ok := textOf(fields[name])
	if !ok {
		return "", &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid " + name + ": must be a string"}
	}
	return s, nil
}

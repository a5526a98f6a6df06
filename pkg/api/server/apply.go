package server

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/work/project"
)

// Editor changes projects; *project.Editor implements it and documents the errors.
type Editor interface {
	Lock(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (unlock func(), err error)
	Apply(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, changes []project.Change, message string) ([]project.Applied, error)
	Log(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, limit int) (versions []history.Version, made bool, err error)
	Diff(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, hash string) (string, error)
	Restore(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, hash string) (restored []string, err error)
}

const (
	maxApplied     = 1000 // files per request
	defaultMessage = "Update files"
)

// applyRequest is a decoded request of apply_files.
type applyRequest struct {
	user    dreamcore.UserID
	project dreamcore.ProjectID
	fields  map[string]json.RawMessage
}

// applyFiles changes the files of a project, or reads or restores its versions.
// The action decides; without an action, files are changed.
func (s *Server) applyFiles(x *exchange, r *http.Request) {
	reserved, ok := s.reserveApply(x, r)
	if !ok {
		return
	}
	release := sync.OnceFunc(func() { s.applied.Release(reserved) })
	defer release()
	var b bytes.Buffer
	b.Grow(int(min(max(r.ContentLength, 0), s.limits.MaxApplyBody)) + bytes.MinRead)
	if !x.copyBody(&b, r, s.limits.MaxApplyBody) {
		return
	}
	surplus := reserved - int64(b.Len())
	s.applied.Release(surplus)
	reserved -= surplus
	q, err := decodeApply(b.Bytes())
	if err != nil {
		x.fail(err)
		return
	}
	x.about(q.user, q.project)
	action, ok := textOf(q.fields["action"])
	if !ok {
		action = string(q.fields["action"]) // no action looks like another JSON value
	}
	changes := action == "" || action == "git_restore"
	if changes && !s.admitted(x, q.user, q.project) { // a blocked user's games can still be read
		return
	}
	switch action {
	case "":
		s.changeFiles(x, r, q, release)
	case "git_log":
		s.gitLog(x, r, q)
	case "git_diff":
		s.gitDiff(x, r, q)
	case "git_restore":
		s.gitRestore(x, r, q)
	default:
		x.fail(&dreamcore.Error{
			Code: dreamcore.CodeInvalid, Message: "Unknown action: " + clip(action),
			Hint: "use git_log, git_diff or git_restore, or leave it out to change files",
		})
	}
}

// reserveApply reserves a request's share of the memory for bodies, in order of
// arrival. A request of unknown length reserves the maximum until it has been read. If
// there is no room in time, reserveApply responds with an error and returns false.
// The caller must release the reservation.
func (s *Server) reserveApply(x *exchange, r *http.Request) (n int64, ok bool) {
	n = s.limits.MaxApplyBody
	if r.ContentLength > n {
		x.refuse(r, tooLarge(n))
		return 0, false
	}
	if r.ContentLength >= 0 {
		n = r.ContentLength
	}
	ctx, cancel := context.WithTimeout(r.Context(), s.limits.ApplyPatience)
	defer cancel()
	if err := s.applied.Acquire(ctx, n); err != nil {
		x.refuse(r, &dreamcore.Error{Code: dreamcore.CodeBusy, Message: "Too many changes are being made", Hint: "send it again in a few seconds", Err: err})
		return 0, false
	}
	if r.ContentLength != 0 {
		// The time for the body starts now, not when the request arrived; the end
		// of the body lifts this limit. Tests without a connection have none.
		_ = x.Control.SetReadDeadline(time.Now().Add(s.limits.ReadTimeout))
	}
	return n, true
}

func decodeApply(body []byte) (applyRequest, error) {
	q := applyRequest{fields: map[string]json.RawMessage{
		"user_id": nil, "project_id": nil, "files": nil, "commit_message": nil, "action": nil, "commit": nil, "limit": nil,
	}}
	if err := decodeObject(body, q.fields); err != nil {
		return q, invalidJSON(err)
	}
	var err error
	if q.user, err = userField(q.fields["user_id"]); err != nil {
		return q, err
	}
	q.project, err = projectField(q.fields["project_id"])
	return q, err
}

// fileChange is one element of "files".
type fileChange struct {
	Path, Action string
	change       project.Change
	fault        error // an invalid encoding; then nothing is changed
}

// decodeChanges decodes "files". Paths and encodings are checked only when they
// are used: an invalid one is reported by an event of the stream.
func decodeChanges(raw json.RawMessage) ([]fileChange, error) {
	// A Go array bounds the number of elements: a slice for millions of empty
	// elements would take many times the size of their text.
	var all [maxApplied + 1]json.RawMessage
	err := json.Unmarshal(raw, &all)
	list := all[:]
	if end := slices.IndexFunc(list, func(item json.RawMessage) bool { return item == nil }); end >= 0 {
		list = list[:end]
	}
	if err != nil || len(list) == 0 {
		return nil, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "files array is required", Hint: `send "files":[{"path":"index.html","content":"…","action":"update"}]`}
	}
	if len(list) > maxApplied {
		return nil, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: fmt.Sprintf("Too many files: at most %d", maxApplied), Hint: "send them in several requests"}
	}
	changes := make([]fileChange, len(list))
	for i, item := range list {
		fields := map[string]json.RawMessage{"path": nil, "content": nil, "action": nil, "encoding": nil}
		if decodeObject(item, fields) != nil {
			return nil, badFile(i, "must be an object")
		}
		c := fileChange{Path: text(fields["path"], "")}
		action, known := textOf(fields["action"])
		content, isText := textOf(fields["content"])
		c.Action = action
		switch {
		case c.Path == "":
			return nil, badFile(i, "path is required")
		case known && c.Action == "delete":
		case !known || c.Action != "" && c.Action != "create" && c.Action != "update":
			return nil, badFile(i, "action must be create, update or delete")
		case !isText:
			return nil, badFile(i, "content must be text")
		default:
			content, c.fault = decodeContent(i, content, fields["encoding"])
			c.change.Write = project.Text(content)
		}
		if c.Action == "" {
			c.Action = "update"
		}
		c.change.Path = c.Path
		changes[i] = c
	}
	return changes, nil
}

// decodeContent returns the contents of files[i]: its text, or the bytes that the
// text encodes.
func decodeContent(i int, content string, encoding json.RawMessage) (string, error) {
	switch name, ok := textOf(encoding); {
	case !ok || name != "" && name != "utf-8" && name != "base64":
		return "", badMember(i, "encoding", `must be "utf-8" or "base64"`)
	case name != "base64":
		return content, nil
	}
	// The decoder skips line breaks, even when it is Strict.
	decoded, err := base64.StdEncoding.Strict().DecodeString(content)
	if err != nil || strings.ContainsAny(content, "\r\n") {
		return "", badMember(i, "content", "must be base64 in the standard alphabet with padding, on one line")
	}
	return string(decoded), nil
}

func badMember(i int, name, why string) error {
	return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: fmt.Sprintf("Invalid files[%d].%s: %s", i, name, why)}
}

func badFile(i int, why string) error {
	return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: fmt.Sprintf("Invalid files[%d]: %s", i, why)}
}

// changeFiles applies the changes and streams the result. It continues if the
// client disconnects. It calls release when the contents are no longer in memory: a
// check of the game, which takes its time, must not keep other changes waiting.
func (s *Server) changeFiles(x *exchange, r *http.Request, q applyRequest, release func()) {
	changes, err := decodeChanges(q.fields["files"])
	if err != nil {
		x.fail(err)
		return
	}
	why, err := textField(q.fields, "commit_message")
	if err != nil {
		x.fail(err)
		return
	}
	if why == "" {
		why = defaultMessage
	}
	q.fields = nil // the body
	began := time.Now()
	whole := context.WithoutCancel(r.Context())
	unlock, err := s.cfg.Editor.Lock(r.Context(), q.user, q.project)
	if err != nil {
		x.fail(err)
		return
	}
	unlock = sync.OnceFunc(unlock)
	lang := x.lang()
	done := make(chan struct{})
	defer func() { <-done }() // wait even if the client is gone
	f := startFeed(r.Context(), func(ctx context.Context, send func(message) error) error {
		defer close(done)
		defer unlock()
		_ = send(status(fmt.Sprintf("Applying %d files", len(changes))))
		list := make([]project.Change, len(changes))
		for i, c := range changes {
			if c.fault != nil {
				x.err = c.fault
				return send(encodeMessage(applyFailure(c.fault)))
			}
			list[i] = c.change
		}
		applied, err := s.cfg.Editor.Apply(whole, q.user, q.project, list, why)
		for i := range changes {
			changes[i].change.Write = nil
		}
		release()
		if err != nil {
			x.err = err
			return send(encodeMessage(applyFailure(err)))
		}
		if err := send(encodeMessage(applyResult(changes, applied))); err != nil {
			return err
		}
		unlock() // the check takes the project for itself, and ends with the client
		if err := s.checkApplied(ctx, q, lang, send); err != nil {
			return err
		}
		return send(encodeMessage(struct {
			Type     string `json:"type"`
			ExitCode int    `json:"exit_code"`
			Millis   int64  `json:"duration_ms"`
		}{"done", 0, time.Since(began).Milliseconds()}))
	})
	defer f.stop()
	if err = x.beginStream(); err == nil {
		err = x.forward(r.Context(), f)
	}
	switch {
	case err != nil:
		x.cut = err
	case f.err != nil:
		x.err = f.err
		x.endWithError(encodeMessage(applyFailure(f.err)).event)
	}
}

func status(text string) message { return message{event: dreamcore.StatusEvent(text)} }

// encodeMessage returns v as an event. It panics only for unencodable types.
func encodeMessage(v any) message {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err)
	}
	return message{event: bytes.TrimSuffix(b.Bytes(), []byte("\n"))}
}

func applyResult(changes []fileChange, applied []project.Applied) any {
	type file struct {
		Path   string `json:"path"`
		Action string `json:"action"`
		Size   int64  `json:"size"`
	}
	result := struct {
		Type  string `json:"type"`
		Files []file `json:"files"`
	}{"result", make([]file, len(applied))}
	for i, a := range applied {
		result.Files[i] = file{a.Path, changes[i].Action, a.Size}
	}
	return result
}

// applyFailure returns the error event of a failed change.
func applyFailure(err error) any {
	code, message := "INTERNAL", internalMessage
	_, body := describe(err)
	switch {
	case body.Code == dreamcore.CodeInvalid:
		code, message = "PERMISSION_ERROR", body.Error
	case body.Code == dreamcore.CodeTooLarge:
		code, message = "QUOTA_EXCEEDED", body.Error
	case body.Code == codeDisk:
		code, message = "OS_ERROR", body.Error
	case dreamcore.CodeOf(err) == dreamcore.CodeSetup:
		code, message = "OS_ERROR", "The files could not be written"
	}
	return struct {
		Type    string `json:"type"`
		Message string `json:"message"`
		Code    string `json:"code"`
	}{"error", message, code}
}

// gitLog returns the versions of a project.
func (s *Server) gitLog(x *exchange, r *http.Request, q applyRequest) {
	limit := 0
	if raw := q.fields["limit"]; len(raw) > 0 && string(raw) != "null" {
		if json.Unmarshal(raw, &limit) != nil || limit < 1 {
			x.fail(&dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid limit: must be a positive number"})
			return
		}
	}
	versions, made, err := s.cfg.Editor.Log(r.Context(), q.user, q.project, limit)
	if err != nil {
		x.fail(err)
		return
	}
	type commit struct {
		Hash    string `json:"hash"`
		Message string `json:"message"`
		Date    string `json:"date"`

		Acceptance string `json:"acceptance,omitempty"` // verdict of the check of the game in it
	}
	commits := make([]commit, len(versions))
	for i, v := range versions {
		commits[i] = commit{history.Short(v.Hash), v.Message, v.When.Format(time.RFC3339), v.Acceptance}
	}
	x.answer(http.StatusOK, struct {
		Commits []commit `json:"commits"`
		Made    bool     `json:"autoInitialized,omitempty"`
	}{commits, made})
}

// gitDiff returns the changes of a version.
func (s *Server) gitDiff(x *exchange, r *http.Request, q applyRequest) {
	hash, err := commitOf(q)
	if err == nil {
		var diff string
		if diff, err = s.cfg.Editor.Diff(r.Context(), q.user, q.project, hash); err == nil {
			x.answer(http.StatusOK, struct {
				Diff string `json:"diff"`
			}{diff})
			return
		}
	}
	x.fail(err)
}

// gitRestore restores the code of a project to a version. It continues if the
// client disconnects.
func (s *Server) gitRestore(x *exchange, r *http.Request, q applyRequest) {
	hash, err := commitOf(q)
	if err == nil {
		var files []string
		if files, err = s.cfg.Editor.Restore(context.WithoutCancel(r.Context()), q.user, q.project, hash); err == nil {
			named, leftOut := listed(files)
			x.answer(http.StatusOK, struct {
				Success bool     `json:"success"`
				Files   []string `json:"restored_files"`
				LeftOut int      `json:"left_out,omitempty"`
			}{true, named, leftOut})
			return
		}
	}
	x.fail(err)
}

func commitOf(q applyRequest) (string, error) {
	const hint = "use 7 to 40 hexadecimal digits, as in git_log"
	hash, ok := textOf(q.fields["commit"])
	if !ok {
		return "", &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid commit hash", Hint: hint}
	}
	if hash == "" {
		return "", &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "commit is required", Hint: hint}
	}
	return hash, history.CheckHash(hash)
}

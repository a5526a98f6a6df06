package server

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/work/project"
)

// Projects opens projects; *volume.Store implements it.
type Projects interface {
	// Find opens a project; the server closes it. The error is CodeNotFound if the
	// project does not exist.
	Find(user dreamcore.UserID, project dreamcore.ProjectID) (*volume.Project, error)
}

// listFiles returns the paths of a project's files as get_file accepts them, and
// the number of files that are left out: names that are not UTF-8, and files
// beyond the limits on depth and paths. Apart from that the list is exact: if a
// project cannot be walked completely, the response is an error.
func (s *Server) listFiles(x *exchange, r *http.Request) {
	x.leaveBody(r)
	p, err := s.project(x, r)
	if err != nil {
		if dreamcore.CodeOf(err) == dreamcore.CodeNotFound {
			x.answer(http.StatusNotFound, struct {
				Error string   `json:"error"`
				Files []string `json:"files"`
			}{"Project not found", []string{}})
			return
		}
		x.fail(err)
		return
	}
	defer p.Close()
	text, _ := parameter(r.URL.Query(), "user_id")
	user, _ := dreamcore.ParseUserID(text) // s.project has validated it
	files, leftOut, done, err := s.walk(r.Context(), user, p)
	if err != nil {
		x.fail(err)
		return
	}
	defer done()
	x.answerList(files, leftOut)
	s.hint(r)
}

// hint tells that a client looks at the project of a request, in which its user may
// want something next. s.project must have accepted the request.
func (s *Server) hint(r *http.Request) {
	q := r.URL.Query()
	user, uerr := dreamcore.ParseUserID(q.Get("user_id"))
	id, perr := dreamcore.ParseProjectID(q.Get("project_id"))
	if uerr == nil && perr == nil {
		s.cfg.Generator.Hint(user, id)
	}
}

const (
	maxWalks      = 4         // concurrent walks; one per user
	maxWaiting    = 64        // waiting walks per user
	largeList     = 256 << 10 // bytes of paths; longer lists are large
	maxLargeLists = 6         // in memory until their clients have read them
)

// walk returns the files of a project that JSON can represent and the number of
// the others. Sandboxes determine the length of a list, so walks take turns, and
// only a few large lists are in memory at once. The caller must call done when it
// no longer needs the list.
func (s *Server) walk(ctx context.Context, user dreamcore.UserID, p *volume.Project) (files []string, leftOut int, done func(), err error) {
	leave, err := s.walks.Enter(ctx, user)
	if err != nil {
		return nil, 0, nil, err
	}
	defer leave()
	length := 0
	for f, err := range p.FilesLeftOut(ctx, &leftOut) {
		if err != nil {
			return nil, 0, nil, err
		}
		files = append(files, f.Path)
		length += len(f.Path)
	}
	done = func() {}
	if length > largeList {
		if !s.largeLists.TryAcquire(1) {
			return nil, 0, nil, &dreamcore.Error{Code: dreamcore.CodeBusy, Message: "Too many long lists are being sent", Hint: "send it again in a few seconds"}
		}
		done = func() { s.largeLists.Release(1) }
	}
	files, unlisted := listed(files)
	return files, leftOut + unlisted, done, nil
}

// listed returns those paths that JSON can represent, which is UTF-8 only, and
// the number of the others. A converted name would name no file, or another one.
func listed(paths []string) (files []string, leftOut int) {
	files = []string{} // not null in JSON
	for _, path := range paths {
		if utf8.ValidString(path) {
			files = append(files, path)
		} else {
			leftOut++
		}
	}
	return files, leftOut
}

// answerList writes {"files":[…],"left_out":N} without building it in memory: in
// JSON a name may take six times its bytes.
func (x *exchange) answerList(files []string, leftOut int) {
	h := x.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	x.WriteHeader(http.StatusOK)
	w := bufio.NewWriterSize(x, 32<<10) // Flush returns the first error
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	w.WriteString(`{"files":[`)
	for i, name := range files {
		if i > 0 {
			w.WriteByte(',')
		}
		text.Reset()
		_ = enc.Encode(name) // a string cannot fail
		if _, err := w.Write(bytes.TrimSuffix(text.Bytes(), []byte("\n"))); err != nil {
			break
		}
	}
	w.WriteByte(']')
	if leftOut > 0 {
		fmt.Fprintf(w, `,"left_out":%d`, leftOut)
	}
	w.WriteString("}\n")
	if err := w.Flush(); err != nil {
		x.log.Debug("cannot send the response", "error", err)
	}
}

// getFile returns the contents of one file.
func (s *Server) getFile(x *exchange, r *http.Request) {
	x.leaveBody(r)
	x.Header().Set("Access-Control-Allow-Origin", "*")
	name, err := parameter(r.URL.Query(), "path")
	if err != nil {
		x.fail(err)
		return
	}
	name = strings.TrimLeft(name, "/") // as in the old backend
	if name == "" {
		name = project.IndexName
	}
	p, err := s.project(x, r)
	if err != nil {
		x.fail(rename(err, dreamcore.CodeNotFound, "Project not found"))
		return
	}
	defer p.Close()
	file, err := project.Open(p, name)
	if name == project.IndexName && dreamcore.CodeOf(err) == dreamcore.CodeNotFound {
		if name, err = project.FirstPage(r.Context(), p); err == nil {
			file, err = project.Open(p, name)
		}
	}
	if err != nil {
		err = rename(err, dreamcore.CodeInvalid, "Invalid file path")
		x.fail(rename(err, dreamcore.CodeNotFound, "File not found"))
		return
	}
	defer file.Close()
	x.Header().Set("Cache-Control", cacheControl(file.Kind))
	file.Serve(x, r)
	if name == project.IndexName {
		s.hint(r)
	}
}

// project opens the project that the query specifies.
func (s *Server) project(x *exchange, r *http.Request) (*volume.Project, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid query", Err: err}
	}
	text, err := parameter(q, "user_id")
	if err != nil {
		return nil, err
	}
	user, err := dreamcore.ParseUserID(text)
	if err != nil {
		return nil, err
	}
	if text, err = parameter(q, "project_id"); err != nil {
		return nil, err
	}
	id, err := dreamcore.ParseProjectID(text)
	if err != nil {
		return nil, err
	}
	x.about(user, id)
	return s.cfg.Projects.Find(user, id)
}

// parameter returns the value of a parameter, or "" if it is missing. It refuses
// different values: a client that puts an unescaped file name into the address
// must not be led to another user's project by "&user_id=" in the name.
func parameter(q url.Values, name string) (string, error) {
	values := q[name]
	for _, v := range values {
		if v != values[0] {
			return "", &dreamcore.Error{
				Code: dreamcore.CodeInvalid, Message: name + " is given more than once",
				Hint: "send it once, and escape the other parameters",
			}
		}
	}
	if len(values) == 0 {
		return "", nil
	}
	return values[0], nil
}

// rename replaces the text of errors with a code by the text of the contract. An
// error that already has its text keeps it.
func rename(err error, code dreamcore.Code, text string) error {
	if dreamcore.CodeOf(err) != code || errors.Is(err, project.ErrNoPage) {
		return err
	}
	return &dreamcore.Error{Code: code, Message: text, Err: err}
}

// cacheControl returns the Cache-Control of a MIME type. Pages are never cached;
// what they load may be cached by the client only, because it needs the secret.
func cacheControl(kind string) string {
	switch {
	case strings.HasPrefix(kind, "text/html"):
		return "no-store"
	case strings.HasPrefix(kind, "image/"), strings.HasPrefix(kind, "audio/"), strings.HasPrefix(kind, "font/"),
		strings.HasPrefix(kind, "text/css"), strings.HasPrefix(kind, "text/javascript"):
		return "private, max-age=3600"
	}
	return "no-cache"
}

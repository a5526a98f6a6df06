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

// Projects is where the files of projects are read; *volume.Store is one.
type Projects interface {
	// Find opens a project; CodeNotFound: there is none. The server closes it.
	Find(user dreamcore.UserID, project dreamcore.ProjectID) (*volume.Project, error)
}

// listFiles answers with the paths of a project's files, each as get_file takes
// it, and with how many are left out: names that are not UTF-8, and what is
// beyond the limits on depth and paths. Apart from that it is exact: a project
// that cannot be walked to its end is an error, not a shorter list.
func (s *Server) listFiles(x *exchange, r *http.Request) {
	x.leaveBody(r)
	p, err := s.project(r)
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
	user, _ := dreamcore.ParseUserID(text) // project has read it
	files, leftOut, done, err := s.walk(r.Context(), user, p)
	if err != nil {
		x.fail(err)
		return
	}
	defer done()
	x.answerList(files, leftOut)
}

const (
	maxWalks      = 4         // walks through projects at once; one of a user
	maxWaiting    = 64        // walks of one user that wait
	largeList     = 256 << 10 // bytes of paths; lists with more are large
	maxLargeLists = 6         // that are in memory until their clients have read them
)

// walk returns the files of a project that JSON can hold and the number of the
// others. A list is as long as a sandbox makes it, so walks take turns, and few
// large lists are in memory at once. The caller must call done when it needs
// the list no more.
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

// listed returns those of paths that JSON can hold, which is UTF-8 only, and
// the number of the others. Another spelling of those would be the name of no
// file, or of another one.
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

// answerList writes {"files":[…],"left_out":N} without holding it in memory: in
// JSON a name may take six times its bytes.
func (x *exchange) answerList(files []string, leftOut int) {
	h := x.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	x.WriteHeader(http.StatusOK)
	w := bufio.NewWriterSize(x, 32<<10) // which keeps its first error until Flush
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	w.WriteString(`{"files":[`)
	for i, name := range files {
		if i > 0 {
			w.WriteByte(',')
		}
		text.Reset()
		_ = enc.Encode(name) // a string into memory
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
		x.log.Debug("the answer could not be sent", "error", err)
	}
}

// getFile answers with the bytes of one file.
func (s *Server) getFile(x *exchange, r *http.Request) {
	x.leaveBody(r)
	x.Header().Set("Access-Control-Allow-Origin", "*")
	name, err := parameter(r.URL.Query(), "path")
	if err != nil {
		x.fail(err)
		return
	}
	name = strings.TrimLeft(name, "/") // as the old backend took it
	if name == "" {
		name = project.IndexName
	}
	p, err := s.project(r)
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
}

// project opens the project that the query names.
func (s *Server) project(r *http.Request) (*volume.Project, error) {
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
	return s.cfg.Projects.Find(user, id)
}

// parameter returns the value of a parameter, "" without one. Several different
// values are refused: a client that puts a file's name into the address without
// escaping it must not be led to another user's project by "&user_id=".
func parameter(q url.Values, name string) (string, error) {
	values := q[name]
	for _, v := range values {
		if v != values[0] {
			return "", &dreamcore.Error{
				Code: dreamcore.CodeInvalid, Message: name + " is given more than once",
				Hint: "send it once, and escape what stands in the other parameters",
			}
		}
	}
	if len(values) == 0 {
		return "", nil
	}
	return values[0], nil
}

// rename gives errors of one code the text of the contract. An error that has
// its text already keeps it.
func rename(err error, code dreamcore.Code, text string) error {
	if dreamcore.CodeOf(err) != code || errors.Is(err, project.ErrNoPage) {
		return err
	}
	return &dreamcore.Error{Code: code, Message: text, Err: err}
}

// cacheControl: pages are always asked for anew, what they load may be kept, by
// the client alone: it is answered to whoever has the secret.
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

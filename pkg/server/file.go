package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/volume"
)

// Projects is where the files of projects are read; *volume.Store is one.
type Projects interface {
	// Find opens a project; CodeNotFound: there is none. The server closes it.
	Find(user dreamcore.UserID, project dreamcore.ProjectID) (*volume.Project, error)
}

// indexName is the page of a game.
const indexName = "index.html"

// listFiles answers with the paths of a project's files. It is exact: a
// project that cannot be walked to its end is an error, not a shorter list.
func (s *Server) listFiles(x *exchange, r *http.Request) {
	x.leaveBody(r)
	project, err := s.project(r)
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
	defer project.Close()
	files := []string{}
	for f, err := range project.Files(r.Context()) {
		if err != nil {
			x.fail(err)
			return
		}
		files = append(files, strings.ToValidUTF8(f.Path, "\uFFFD"))
	}
	x.answer(http.StatusOK, struct {
		Files []string `json:"files"`
	}{files})
}

// getFile answers with the bytes of one file.
func (s *Server) getFile(x *exchange, r *http.Request) {
	x.leaveBody(r)
	x.Header().Set("Access-Control-Allow-Origin", "*")
	name := r.URL.Query().Get("path")
	if name == "" {
		name = indexName
	}
	project, err := s.project(r)
	if err != nil {
		x.fail(rename(err, dreamcore.CodeNotFound, "Project not found"))
		return
	}
	defer project.Close()
	file, info, err := project.Open(name)
	if name == indexName && dreamcore.CodeOf(err) == dreamcore.CodeNotFound {
		if name, err = firstPage(r.Context(), project); err == nil {
			file, info, err = project.Open(name)
		}
	}
	if err != nil {
		err = rename(err, dreamcore.CodeInvalid, "Invalid file path")
		x.fail(rename(err, dreamcore.CodeNotFound, "File not found"))
		return
	}
	defer file.Close()
	kind := mimeType(name)
	h := x.Header()
	h.Set("Content-Type", kind)
	h.Set("Cache-Control", cacheControl(kind))
	h.Set("X-Content-Type-Options", "nosniff")
	if tag := entityTag(info, time.Now()); tag != "" {
		h.Set("ETag", tag)
	}
	// Ranges and conditions are its work. The size is the one that was
	// announced, whatever the sandbox writes meanwhile; a file that became
	// shorter cuts the connection.
	http.ServeContent(x, r, "", info.ModTime(), io.NewSectionReader(file, 0, info.Size()))
}

// settled is how old the last change of a file must be for its tag to tell it
// from the next one: clocks of file systems tick in steps.
const settled = 50 * time.Millisecond

// entityTag is the tag of a file as it is now, or "" of one that may change
// once more without a sign of it. ctime counts, which nobody inside can set.
func entityTag(info fs.FileInfo, now time.Time) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Ctim.Nano() > now.Add(-settled).UnixNano() {
		return ""
	}
	return fmt.Sprintf(`"%x-%x-%x"`, st.Ino, info.Size(), st.Ctim.Nano())
}

// project opens the project that the query names.
func (s *Server) project(r *http.Request) (*volume.Project, error) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid query", Err: err}
	}
	user, err := dreamcore.ParseUserID(q.Get("user_id"))
	if err != nil {
		return nil, err
	}
	id, err := dreamcore.ParseProjectID(q.Get("project_id"))
	if err != nil {
		return nil, err
	}
	return s.cfg.Projects.Find(user, id)
}

// firstPage is the page of a project without an index: the first other one.
func firstPage(ctx context.Context, project *volume.Project) (string, error) {
	for f, err := range project.Files(ctx) {
		if err != nil {
			return "", err
		}
		if strings.HasSuffix(f.Path, ".html") {
			return f.Path, nil
		}
	}
	return "", &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "No HTML file found", Err: errNoPage}
}

var errNoPage = errors.New("no page in the project")

// rename gives errors of one code the text of the contract. An error that has
// its text already keeps it.
func rename(err error, code dreamcore.Code, text string) error {
	if dreamcore.CodeOf(err) != code || errors.Is(err, errNoPage) {
		return err
	}
	return &dreamcore.Error{Code: code, Message: text, Err: err}
}

// types are those of games; the machine's own table may lack or change them.
var types = map[string]string{
	".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
	".js": "text/javascript; charset=utf-8", ".mjs": "text/javascript; charset=utf-8",
	".json": "application/json", ".svg": "image/svg+xml", ".png": "image/png", ".jpg": "image/jpeg",
	".jpeg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp", ".ico": "image/x-icon",
	".mp3": "audio/mpeg", ".ogg": "audio/ogg", ".wav": "audio/wav", ".m4a": "audio/mp4",
	".woff": "font/woff", ".woff2": "font/woff2", ".ttf": "font/ttf", ".otf": "font/otf",
	".txt": "text/plain; charset=utf-8", ".md": "text/markdown; charset=utf-8", ".wasm": "application/wasm",
	".glb": "model/gltf-binary", ".gltf": "model/gltf+json", ".mp4": "video/mp4", ".webm": "video/webm",
}

func mimeType(name string) string {
	ext := strings.ToLower(path.Ext(name))
	if t, ok := types[ext]; ok {
		return t
	}
	if t := mime.TypeByExtension(ext); t != "" {
		return t
	}
	return "application/octet-stream"
}

// cacheControl: pages are always asked for anew, what they load may be kept.
func cacheControl(kind string) string {
	switch {
	case strings.HasPrefix(kind, "text/html"):
		return "no-store"
	case strings.HasPrefix(kind, "image/"), strings.HasPrefix(kind, "audio/"), strings.HasPrefix(kind, "font/"),
		strings.HasPrefix(kind, "text/css"), strings.HasPrefix(kind, "text/javascript"):
		return "public, max-age=3600"
	}
	return "no-cache"
}

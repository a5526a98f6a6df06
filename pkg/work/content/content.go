// Package content gives the files of a game to HTTP clients: their types, tags
// and ranges, and the page of a game that has no index.html. Who may ask, and
// what a client may keep, is the business of those who use it.
package content

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

// IndexName is the page of a game.
const IndexName = "index.html"

// File is an open file of a game. The caller must Close it.
type File struct {
	Kind string // its MIME type

	file *os.File
	info fs.FileInfo
}

// Open opens a file of a project, with the errors of Project.Open.
func Open(project *volume.Project, name string) (*File, error) {
	file, info, err := project.Open(name)
	if err != nil {
		return nil, err
	}
	return &File{Kind: mimeType(name), file: file, info: info}, nil
}

// Close closes the file.
func (f *File) Close() error { return f.file.Close() }

// Serve answers with the file, or with what of it a range or a condition asks
// for. Headers that are set already stay.
func (f *File) Serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", f.Kind)
	h.Set("X-Content-Type-Options", "nosniff")
	if tag := entityTag(f.info, time.Now()); tag != "" {
		h.Set("ETag", tag)
	}
	// Ranges and conditions are its work. The size is the one that was
	// announced, whatever the sandbox writes meanwhile; a file that became
	// shorter cuts the connection. It is told no time: that of a change counts
	// whole seconds and is anybody's to set inside, so that If-Modified-Since
	// would find new files unchanged.
	http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(f.file, 0, f.info.Size()))
}

// Settled is how old the last change of a file must be for its tag to tell it
// from the next one: clocks of file systems tick in steps.
const Settled = 50 * time.Millisecond

// entityTag is the tag of a file as it is now, or "" of one that may change
// once more without a sign of it. ctime counts, which nobody inside can set.
func entityTag(info fs.FileInfo, now time.Time) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Ctim.Nano() > now.Add(-Settled).UnixNano() {
		return ""
	}
	return fmt.Sprintf(`"%x-%x-%x"`, st.Ino, info.Size(), st.Ctim.Nano())
}

// ErrNoPage is in the error of FirstPage for a project without any page.
var ErrNoPage = errors.New("no page in the project")

// FirstPage is the page of a project without an index: the first other one at
// its top, or else the first that there is.
func FirstPage(ctx context.Context, project *volume.Project) (string, error) {
	first := ""
	for f, err := range project.Files(ctx) {
		if err != nil {
			return "", err
		}
		if !strings.HasSuffix(f.Path, ".html") {
			continue
		}
		if !strings.Contains(f.Path, "/") {
			return f.Path, nil
		}
		if first == "" {
			first = f.Path
		}
	}
	if first != "" {
		return first, nil
	}
	return "", &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "No HTML file found", Err: ErrNoPage}
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

package project

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/system/mediatype"
)

// IndexName is the page of a game.
const IndexName = "index.html"

// File is an open file of a game. The caller must Close it.
type File struct {
	Kind string // MIME type

	file *os.File
	info fs.FileInfo
}

// Open opens a file of a project, with the errors of volume.Project.Open.
func Open(project *volume.Project, name string) (*File, error) {
	file, info, err := project.Open(name)
	if err != nil {
		return nil, err
	}
	return &File{Kind: mediatype.Of(name), file: file, info: info}, nil
}

// Close closes the file.
func (f *File) Close() error { return f.file.Close() }

// Serve answers with the file; it honours the conditions and ranges of the request. Headers that are already set stay.
func (f *File) Serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", f.Kind)
	h.Set("X-Content-Type-Options", "nosniff")
	if tag := entityTag(f.info, time.Now()); tag != "" {
		h.Set("ETag", tag)
	}
	// ServeContent handles ranges and conditions. The size stays the announced
	// one, even if the sandbox writes meanwhile; a file that became shorter breaks
	// the connection. ServeContent gets no modification time: HTTP counts
	// whole seconds and a sandbox can set any time, so If-Modified-Since would
	// take new files for unchanged ones.
	http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(f.file, 0, f.info.Size()))
}

// TagDelay is the age that the last change of a file must have before the file
// gets an entity tag: clocks of file systems tick in steps, so a second change
// within one step could not be told apart.
const TagDelay = 50 * time.Millisecond

// entityTag returns the tag of a file in its current state, or "" if the file may
// change again without a visible difference. It is derived from ctime, which no
// sandbox can set.
func entityTag(info fs.FileInfo, now time.Time) string {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Ctim.Nano() > now.Add(-TagDelay).UnixNano() {
		return ""
	}
	return fmt.Sprintf(`"%x-%x-%x"`, st.Ino, info.Size(), st.Ctim.Nano())
}

// ErrNoPage is in the chain of the error of FirstPage for a project without an
// HTML file.
var ErrNoPage = errors.New("no page in the project")

// FirstPage returns the page of a project without an index: the first HTML file
// at its top, or else the first in any directory.
func FirstPage(ctx context.Context, project *volume.Project) (string, error) {
	first := ""
	for f, err := range project.Files(ctx) {
		if err != nil {
			return "", err
		}
		if !mediatype.IsPage(f.Path) {
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

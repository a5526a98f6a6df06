// Package site serves the files of a project to a browser in the same sandbox,
// with the types and the choice of the page that previews have.
package site

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/system/mediatype"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

const (
	indexName = "index.html"
	maxVisits = 20000 // entries that the search for a page reads
)

// Main serves dir on a free port of the loopback, writes the port as one line to
// out, and serves until ctx ends.
func Main(ctx context.Context, dir string, out io.Writer) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{
		Handler: Handler(root), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10,
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := json.NewEncoder(out).Encode(verdict.Line{Port: l.Addr().(*net.TCPAddr).Port}); err != nil {
		return errors.Join(err, l.Close())
	}
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Handler serves the files below root. Links that lead out of it are missing
// files.
func Handler(root *os.Root) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		if err := serve(root, w, r); err != nil {
			// Not http.Error: its type would make browsers complain about the type of a
			// script that is only missing.
			w.WriteHeader(http.StatusNotFound)
		}
	})
}

// serve answers with a file, or redirects to the one that stands for it. After an
// error nothing has been written.
func serve(root *os.Root, w http.ResponseWriter, r *http.Request) error {
	name := strings.TrimPrefix(path.Clean("/"+r.URL.Path), "/")
	if hidden(name) {
		return fs.ErrNotExist
	}
	directory := name == "" || strings.HasSuffix(r.URL.Path, "/")
	if directory {
		name = path.Join(name, indexName)
	}
	file, info, err := open(root, name)
	if err == nil {
		defer file.Close()
		w.Header().Set("Content-Type", mediatype.Of(name))
		w.Header().Set("X-Content-Type-Options", "nosniff")
		http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(file, 0, info.Size()))
		return nil
	}
	if !directory {
		if file, _, err := open(root, path.Join(name, indexName)); err == nil {
			_ = file.Close()
			redirect(w, r, name+"/")
			return nil
		}
		return err
	}
	if name != indexName {
		return err
	}
	page, err := firstPage(root)
	if err != nil {
		return err
	}
	redirect(w, r, page)
	return nil
}

// open opens a regular file. It does not wait for the writer of a FIFO.
func open(root *os.Root, name string) (*os.File, fs.FileInfo, error) {
	info, err := root.Stat(name)
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is not a regular file", name)
	}
	file, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	if info, err = file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, nil, errors.Join(fs.ErrNotExist, err, file.Close())
	}
	return file, info, nil
}

// firstPage returns the first HTML file at the top, or else the first in any
// directory.
func firstPage(root *os.Root) (string, error) {
	first, visits := "", 0
	err := fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if visits++; visits > maxVisits {
			return fs.SkipAll
		}
		switch {
		case err != nil:
			return nil // an unreadable directory has no page
		case name != "." && strings.HasPrefix(d.Name(), "."):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case !d.Type().IsRegular() || !mediatype.IsPage(name):
			return nil
		case !strings.Contains(name, "/"):
			first = name
			return fs.SkipAll
		case first == "":
			first = name
		}
		return nil
	})
	if err == nil && first == "" {
		err = fs.ErrNotExist
	}
	return first, err
}

// hidden reports whether a name has an element that begins with a dot; previews
// do not serve those.
func hidden(name string) bool {
	for element := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(element, ".") {
			return true
		}
	}
	return false
}

// redirect leads to a name below the root, so that the page's relative addresses
// work.
func redirect(w http.ResponseWriter, r *http.Request, name string) {
	to := url.URL{Path: "/" + strings.TrimLeft(name, "/"), RawQuery: r.URL.RawQuery}
	w.Header().Set("Location", to.EscapedPath())
	w.WriteHeader(http.StatusSeeOther)
}

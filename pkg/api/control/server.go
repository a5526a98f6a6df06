package control

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/system/socket"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

// Journal opens the events of jobs; *journal.Store implements it.
type Journal interface {
	Reader(job string, after uint64) (*journal.Reader, error)
}

// Server serves commands. The caller must Close it.
type Server struct {
	sandboxes Sandboxes
	journal   Journal
	previews  Previews
	server    *socket.Server
	cancel    context.CancelFunc // cancels every request
}

// Listen serves on a socket in the directory dir until Close. It replaces a
// socket that a dead service left there. p may be nil.
func Listen(dir string, s Sandboxes, j Journal, p Previews, log *slog.Logger) (*Server, error) {
	srv := &Server{sandboxes: s, journal: j, previews: p}
	var ctx context.Context
	ctx, srv.cancel = context.WithCancel(context.Background())
	mux := http.NewServeMux()
	mux.HandleFunc("GET /sandboxes", srv.list)
	mux.HandleFunc("POST /sandboxes/{name}/stop", srv.stop)
	mux.HandleFunc("GET /sandboxes/{name}/logs", srv.logs)
	mux.HandleFunc("POST /sandboxes/{name}/exec", srv.exec)
	mux.HandleFunc("POST /previews", srv.preview)
	var err error
	srv.server, err = socket.Serve(ctx, dir, SocketName, 0o600, socket.Options{Handler: mux, Logger: log})
	if err != nil {
		srv.cancel()
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "cannot create the control socket in " + dir, Err: err,
			Hint: "check that the directory exists and is writable: ls -ld " + dir,
		}
	}
	return srv, nil
}

// Close cancels all requests, waits for them and removes the socket.
func (s *Server) Close() error {
	s.cancel()
	return s.server.Close()
}

func (s *Server) list(w http.ResponseWriter, _ *http.Request) {
	list := s.sandboxes.Sandboxes()
	if list == nil {
		list = []workspace.Info{}
	}
	s.answer(w, map[string]any{"sandboxes": list})
}

func (s *Server) stop(w http.ResponseWriter, r *http.Request) {
	if err := s.sandboxes.StopSandbox(r.Context(), r.PathValue("name")); err != nil {
		s.fail(w, err)
		return
	}
	s.answer(w, struct{}{})
}

func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	jobs, err := s.sandboxes.SandboxJobs(r.PathValue("name"))
	if err != nil {
		s.fail(w, err)
		return
	}
	if len(jobs) == 0 {
		return // an empty log
	}
	reader, err := s.journal.Reader(jobs[len(jobs)-1], 0)
	if err != nil {
		s.fail(w, err)
		return
	}
	defer reader.Close()
	ctx := r.Context()
	if r.URL.Query().Get("follow") == "" {
		var cancel func()
		ctx, cancel = context.WithTimeout(ctx, snapshotLimit)
		defer cancel()
	}
	rc := http.NewResponseController(w)
	for entry, err := range reader.Follow(ctx) {
		if err != nil {
			return // the snapshot ended, or the client disconnected
		}
		if _, err := w.Write(append(entry.Event, '\n')); err != nil {
			return
		}
		_ = rc.Flush()
	}
}

// snapshotLimit bounds the wait for further events of a log that is not followed.
// Existing events are read without waiting.
const snapshotLimit = 300 * time.Millisecond

// exec runs a program. It ends the program if the connection breaks, because the
// command has gone then.
func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	args := r.URL.Query()["arg"]
	if len(args) == 0 {
		s.fail(w, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "no program given", Hint: "put it after the name: dreamcore sandbox exec NAME -- ls -l"})
		return
	}
	rc := http.NewResponseController(w)
	if err := rc.EnableFullDuplex(); err != nil {
		s.fail(w, err)
		return
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	out := &frameWriter{w: w, rc: rc}
	exit, err := s.sandboxes.Exec(ctx, r.PathValue("name"), sandbox.Command{
		Args: args, Stdin: r.Body,
		Stdout: streamWriter(func(p []byte) error { return out.put(frame{Stdout: p}) }),
		Stderr: streamWriter(func(p []byte) error { return out.put(frame{Stderr: p}) }),
	})
	switch {
	case err == nil:
		_ = out.put(frame{Exit: &exit.Code})
	case !out.began:
		s.fail(w, err)
	default:
		_ = out.put(frame{Error: err.Error()})
	}
}

// frameWriter writes frames. Exec writes to one stream at a time.
type frameWriter struct {
	w     io.Writer
	rc    *http.ResponseController
	began bool
}

func (f *frameWriter) put(fr frame) error {
	line, err := json.Marshal(fr)
	if err != nil {
		return err
	}
	f.began = true
	if _, err := f.w.Write(append(line, '\n')); err != nil {
		return err
	}
	return f.rc.Flush()
}

type streamWriter func([]byte) error

func (s streamWriter) Write(p []byte) (int, error) {
	if err := s(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (s *Server) answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// fail responds with the complete error, because clients of this socket may read
// the log too.
func (s *Server) fail(w http.ResponseWriter, err error) {
	code := dreamcore.CodeOf(err)
	status := http.StatusInternalServerError
	switch code {
	case dreamcore.CodeInvalid:
		status = http.StatusBadRequest
	case dreamcore.CodeNotFound:
		status = http.StatusNotFound
	case dreamcore.CodeConflict:
		status = http.StatusConflict
	case dreamcore.CodeBusy:
		status = http.StatusTooManyRequests
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(fault{Error: err.Error(), Code: code, Hint: dreamcore.HintOf(err)})
}

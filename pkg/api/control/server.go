package control

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/system/socket"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

// Journal is where the events of jobs are read; *journal.Store is one.
type Journal interface {
	Reader(job string, after uint64) (*journal.Reader, error)
}

// Server answers commands. The caller must Close it.
type Server struct {
	sandboxes Sandboxes
	journal   Journal
	previews  Previews
	log       *slog.Logger

	file   *socket.File
	http   *http.Server
	cancel context.CancelFunc // of every request
	served sync.WaitGroup
	conns  sync.WaitGroup // one for each connection
}

// Listen serves in the directory dir until Close. A socket that a dead service
// left there is replaced.
func Listen(dir string, s Sandboxes, j Journal, p Previews, log *slog.Logger) (*Server, error) {
	ln, file, err := socket.Listen(dir, SocketName, 0o600)
	if err != nil {
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "the socket for commands cannot be made in " + dir, Err: err,
			Hint: "check that the directory is there and writable: ls -ld " + dir,
		}
	}
	srv := &Server{sandboxes: s, journal: j, previews: p, log: log, file: file}
	ctx, cancel := context.WithCancel(context.Background())
	srv.cancel = cancel
	mux := http.NewServeMux()
	mux.HandleFunc("GET /sandboxes", srv.list)
	mux.HandleFunc("POST /sandboxes/{name}/stop", srv.stop)
	mux.HandleFunc("GET /sandboxes/{name}/logs", srv.logs)
	mux.HandleFunc("POST /sandboxes/{name}/exec", srv.exec)
	mux.HandleFunc("POST /previews", srv.preview)
	srv.http = &http.Server{
		Handler:           mux,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		// StateNew is reported before Serve returns, so Add never meets Wait.
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				srv.conns.Add(1)
			case http.StateClosed:
				srv.conns.Done()
			}
		},
	}
	srv.served.Go(func() {
		if err := srv.http.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			log.Error("the socket for commands failed", "error", err)
		}
	})
	return srv, nil
}

// Close cuts what runs, waits for it and removes the socket.
func (s *Server) Close() error {
	s.cancel()
	err := s.http.Close()
	s.served.Wait()
	s.conns.Wait()
	return errors.Join(err, s.file.Remove())
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
	for {
		entry, err := reader.Next(ctx)
		if err != nil {
			return // its end, the snapshot's, or the reader went
		}
		if _, err := w.Write(append(entry.Event, '\n')); err != nil {
			return
		}
		_ = rc.Flush()
	}
}

// snapshotLimit is how long a log that is not followed is waited for: what is
// there comes at once.
const snapshotLimit = 300 * time.Millisecond

// exec runs a program. The command that asked for it has gone when the
// connection breaks, which ends the program.
func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	args := r.URL.Query()["arg"]
	if len(args) == 0 {
		s.fail(w, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "no program named", Hint: "write it behind the name: dreamcore sandbox exec NAME -- ls -l"})
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

// frameWriter writes frames. Programs write to one stream at a time.
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

// fail answers with an error in full: whoever reaches this socket may read the
// log too.
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

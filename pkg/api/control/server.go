package control

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/system/socket"
	"github.com/notef-neighbor/dreamcore/pkg/work/workspace"
)

// Parts are what a Server controls. The caller closes them after it.
type Parts struct {
	Sandboxes Sandboxes
	Jobs      Jobs
	Journal   *journal.Store // of the jobs
	Previews  Previews       // may be nil
	Accounts  Accounts       // may be nil
}

// Server serves commands. The caller must Close it.
type Server struct {
	sandboxes Sandboxes
	journal   *journal.Store
	previews  Previews
	jobs      Jobs
	accounts  Accounts
	server    *socket.Server
	cancel    context.CancelFunc // cancels every request

	draining context.Context // ends with Drain
	drain    context.CancelCauseFunc
	mu       sync.Mutex     // held to begin a program, and by Drain
	programs sync.WaitGroup // that exec runs
}

// Listen serves on a socket in the directory dir until Close. It replaces a
// socket that a dead service left there.
func Listen(dir string, parts Parts, log *slog.Logger) (*Server, error) {
	srv := &Server{sandboxes: parts.Sandboxes, journal: parts.Journal, previews: parts.Previews, jobs: parts.Jobs, accounts: parts.Accounts}
	var ctx context.Context
	ctx, srv.cancel = context.WithCancel(context.Background())
	srv.draining, srv.drain = context.WithCancelCause(ctx)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /sandboxes", answered(srv, srv.list))
	mux.HandleFunc("POST /sandboxes/{name}/stop", answered(srv, srv.stop))
	mux.HandleFunc("GET /sandboxes/{name}/logs", srv.logs)
	mux.HandleFunc("POST /sandboxes/{name}/exec", srv.exec)
	mux.HandleFunc("POST /previews", answered(srv, srv.preview))
	srv.handleJobs(mux)
	srv.handleAccounts(mux)
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

// errStopping ends the programs of operators.
var errStopping = &dreamcore.Error{Code: dreamcore.CodeBusy, Message: "the service is stopping", Hint: "try again in a moment"}

const (
	// lastWords is how long a client may take to read what a program that is ended has
	// written. Then the connection is cut: a program ends only when its output is read.
	lastWords = 2 * time.Second
	// drainLimit is for a sandbox that says nothing about a program it is to kill.
	drainLimit = 40 * time.Second
)

// Drain ends the programs of operators, because they hold sandboxes, waits up to
// drainLimit for them and refuses new ones. Everything else is answered until Close, so
// that commands show what becomes of the jobs.
func (s *Server) Drain() {
	s.mu.Lock()
	s.drain(errStopping)
	s.mu.Unlock()
	ended := make(chan struct{})
	go func() { // ends with the programs, at the latest with their sandboxes
		defer close(ended)
		s.programs.Wait()
	}()
	late := time.NewTimer(drainLimit)
	defer late.Stop()
	select {
	case <-ended:
	case <-late.C:
	}
}

// cutOff makes writes to a client fail from lastWords after the end of ctx. The caller
// must call stop before it returns.
func cutOff(ctx context.Context, rc *http.ResponseController) (stop func()) {
	returned, done := make(chan struct{}), make(chan struct{})
	release := context.AfterFunc(ctx, func() {
		defer close(done)
		late := time.NewTimer(lastWords)
		defer late.Stop()
		select {
		case <-returned:
		case <-late.C:
			_ = rc.SetWriteDeadline(time.Unix(1, 0))
		}
	})
	return func() {
		close(returned)
		if !release() {
			<-done
		}
	}
}

// beginProgram counts a program until end is called. Its context ends with Drain.
func (s *Server) beginProgram(ctx context.Context) (_ context.Context, end func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining.Err() != nil {
		return nil, nil, errStopping
	}
	s.programs.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.draining, func() { cancel(context.Cause(s.draining)) })
	return ctx, func() {
		stop()
		cancel(nil)
		s.programs.Done()
	}, nil
}

// Close cancels all requests, waits for them and removes the socket.
func (s *Server) Close() error {
	s.cancel()
	return s.server.Close()
}

func (s *Server) list(*http.Request) (map[string]any, error) {
	return map[string]any{"sandboxes": append([]workspace.Info{}, s.sandboxes.List()...)}, nil
}

func (s *Server) stop(r *http.Request) (struct{}, error) {
	return struct{}{}, s.sandboxes.Stop(r.Context(), r.PathValue("name"))
}

func (s *Server) preview(r *http.Request) (link, error) {
	address, expires, err := s.link(r.URL.Query())
	return link{URL: address, Expires: expires.UTC()}, err
}

func (s *Server) link(query url.Values) (address string, expires time.Time, err error) {
	user, err := dreamcore.ParseUserID(query.Get("user"))
	if err != nil {
		return "", expires, err
	}
	project, err := dreamcore.ParseProjectID(query.Get("project"))
	if err != nil {
		return "", expires, err
	}
	lifetime, err := time.ParseDuration(query.Get("for"))
	if err != nil {
		return "", expires, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "the lifetime is not a duration", Hint: "write it with a unit, such as 24h", Err: err}
	}
	if s.previews == nil {
		return "", expires, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "the running service has no previews",
			Hint: "set preview_domain (or preview_listen) in its configuration and restart it",
		}
	}
	return s.previews.Link(user, project, lifetime)
}

func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	jobs, err := s.sandboxes.Jobs(r.PathValue("name"))
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
	s.send(w, r, reader, r.URL.Query().Get("follow") != "")
}

// snapshotLimit bounds the wait for further events of a log that is not followed.
// Existing events are read without waiting.
const snapshotLimit = 300 * time.Millisecond

// exec runs a program. It ends the program if the connection breaks, because the
// command has gone then.
func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	args := r.URL.Query()["arg"]
	if len(args) == 0 {
		s.fail(w, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "no program given", Hint: "put the program after the name of the sandbox"})
		return
	}
	rc := http.NewResponseController(w)
	if err := rc.EnableFullDuplex(); err != nil {
		s.fail(w, err)
		return
	}
	ctx, end, err := s.beginProgram(r.Context())
	if err != nil {
		s.fail(w, err)
		return
	}
	defer end()
	cmd := sandbox.Command{Args: args, Stdin: r.Body}
	if size := r.URL.Query().Get("terminal"); size != "" {
		desk, err := newDesk(size)
		if err != nil {
			s.fail(w, err)
			return
		}
		defer desk.close()
		var cancel context.CancelCauseFunc
		ctx, cancel = context.WithCancelCause(ctx)
		defer cancel(nil)
		go desk.follow(r.Body, cancel) // ends with the connection at the latest
		cmd.Stdin, cmd.Terminal = desk, &desk.terminal
	}
	defer cutOff(ctx, rc)()
	out := &frameWriter{w: w, rc: rc}
	cmd.Stdout = streamWriter(func(p []byte) error { return out.put(frame{Stdout: p}) })
	cmd.Stderr = streamWriter(func(p []byte) error { return out.put(frame{Stderr: p}) })
	exit, err := s.sandboxes.Exec(ctx, r.PathValue("name"), cmd)
	switch {
	case err == nil:
		_ = out.put(frame{Exit: &exit.Code}) // fails only if the client has gone
	case !out.began:
		s.fail(w, err)
	default:
		_ = out.put(frame{Error: err.Error()}) // as above
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
	_ = json.NewEncoder(w).Encode(v) // fails only if the client has gone
}

// fail responds with the complete error, because clients of this socket may read
// the log too.
func (s *Server) fail(w http.ResponseWriter, err error) {
	code := dreamcore.CodeOf(err)
	status := cmp.Or(map[dreamcore.Code]int{
		dreamcore.CodeInvalid: http.StatusBadRequest, dreamcore.CodeNotFound: http.StatusNotFound, dreamcore.CodeConflict: http.StatusConflict,
		dreamcore.CodeBlocked: http.StatusForbidden, dreamcore.CodeBusy: http.StatusTooManyRequests,
	}[code], http.StatusInternalServerError)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(fault{Error: err.Error(), Code: code, Reason: dreamcore.ReasonOf(err), Hint: dreamcore.HintOf(err)})
}

package server

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/residence"
	"github.com/notef-neighbor/dreamcore/pkg/work/relocation"
)

// Moves moves users to other cells and takes them in; *relocation.Service implements it
// and documents the steps and the errors.
type Moves interface {
	List() []relocation.Status
	Status(ctx context.Context, subject residence.Subject) (relocation.Status, error)
	Hold(ctx context.Context, subject residence.Subject, o relocation.HoldOptions) (relocation.Status, error)
	Save(ctx context.Context, user dreamcore.UserID, w io.Writer) error
	Load(ctx context.Context, user dreamcore.UserID, from, move string, r io.Reader) (relocation.Status, error)
	Release(ctx context.Context, subject residence.Subject, to, move string) (relocation.Status, error)
	Accept(ctx context.Context, subject residence.Subject, move string, away []dreamcore.UserID) (relocation.Status, error)
	Undo(ctx context.Context, subject residence.Subject, move string) (relocation.Status, error)
	// None reports whether there are no marks of moves, as on a single machine.
	None() bool
	// CheckRead and CheckChange return CodeMoving if nothing of a user may be answered
	// here, or changed.
	CheckRead(user dreamcore.UserID) error
	CheckChange(user dreamcore.UserID) error
}

// checkResidence refuses requests about a user who lives in another cell. The user is
// the one in the path or the query, or that of the job. Users in bodies are checked by
// the stores and by what admits changes.
func (s *Server) checkResidence(r *http.Request, found route) error {
	if s.cfg.Moves == nil || strings.HasPrefix(found.name, "moves") {
		return nil
	}
	if id := r.PathValue("id"); id != "" {
		return s.checkJobsCell(id)
	}
	text := r.PathValue("user_id")
	if text == "" {
		text = r.URL.Query().Get("user_id")
	}
	user, err := dreamcore.ParseUserID(text)
	if err != nil {
		return nil // the endpoint reports the fault
	}
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return s.cfg.Moves.CheckRead(user)
	}
	return s.cfg.Moves.CheckChange(user)
}

// checkJobsCell hides the jobs of users who live in another cell: the router looks for
// a job in several cells.
func (s *Server) checkJobsCell(id string) error {
	if s.cfg.Moves == nil || s.cfg.Moves.None() {
		return nil
	}
	id, err := dreamcore.ParseJobID(id)
	if err != nil {
		return nil // the endpoint reports the fault
	}
	job, err := s.cfg.Jobs.Get(id)
	switch {
	case dreamcore.CodeOf(err) == dreamcore.CodeNotFound:
		return nil // the endpoint says so
	case err != nil:
		return err
	case s.cfg.Moves.CheckRead(job.User) != nil:
		return jobError(&dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "Job not found"})
	}
	return nil
}

// subject returns what the path names, or responds with an error and returns false.
func (s *Server) subject(x *exchange, r *http.Request) (residence.Subject, bool) {
	if !s.moves(x, r) {
		return residence.Subject{}, false
	}
	subject, err := residence.ParseSubject(r.PathValue("subject"))
	if err != nil {
		x.refuse(r, err)
		return residence.Subject{}, false
	}
	x.log = x.log.With("subject", subject.String())
	return subject, true
}

// moves reports whether the server supports moves, and else responds with an error.
func (s *Server) moves(x *exchange, r *http.Request) bool {
	if s.cfg.Moves == nil {
		x.refuse(r, &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "Not found"})
		return false
	}
	return true
}

func (s *Server) listMoves(x *exchange, r *http.Request) {
	if s.moves(x, r) && x.skipBody(r) {
		x.answer(http.StatusOK, map[string]any{"moves": s.cfg.Moves.List()})
	}
}

func (s *Server) getMove(x *exchange, r *http.Request) {
	if subject, ok := s.subject(x, r); ok && x.skipBody(r) {
		status, err := s.cfg.Moves.Status(r.Context(), subject)
		x.result(status, err)
	}
}

const (
	maxHoldWait = 5 * time.Minute
	maxCellName = 63
	maxStay     = 4096 // users who do not move with their slot
)

// holdMove begins a move.
func (s *Server) holdMove(x *exchange, r *http.Request) {
	subject, ok := s.subject(x, r)
	if !ok {
		return
	}
	fields, ok := x.readMembers(r, "to", "move", "wait_seconds", "cut", "stay")
	if !ok {
		return
	}
	o, err := holdOptions(fields)
	if err != nil {
		x.fail(err)
		return
	}
	status, err := s.cfg.Moves.Hold(r.Context(), subject, o)
	x.result(status, err)
}

func holdOptions(fields map[string]json.RawMessage) (o relocation.HoldOptions, err error) {
	if o.To, err = cellField(fields, "to"); err != nil {
		return o, err
	}
	if len(fields["move"]) > 0 {
		if o.Move, err = moveField(fields); err != nil {
			return o, err
		}
	}
	if o.Cut, err = flag("cut", fields["cut"]); err != nil {
		return o, err
	}
	seconds := 0.0
	if raw := fields["wait_seconds"]; len(raw) > 0 && json.Unmarshal(raw, &seconds) != nil || seconds < 0 || seconds > maxHoldWait.Seconds() {
		return o, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid wait_seconds: must be a number from 0 to 300", Hint: "repeat the request to wait longer"}
	}
	o.Wait = time.Duration(seconds * float64(time.Second))
	o.Stay, err = usersField(fields, "stay")
	return o, err
}

// usersField returns the users in a member, which may be absent.
func usersField(fields map[string]json.RawMessage, name string) (users []dreamcore.UserID, err error) {
	var texts []string
	if raw := fields[name]; len(raw) > 0 && json.Unmarshal(raw, &texts) != nil || len(texts) > maxStay {
		return nil, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid " + name + ": must be a list of up to 4096 users"}
	}
	for _, text := range texts {
		user, err := dreamcore.ParseUserID(text)
		if err != nil {
			return nil, err
		}
		users = append(users, user)
	}
	return users, nil
}

// cellField returns the name of a cell in a member.
func cellField(fields map[string]json.RawMessage, name string) (string, error) {
	cell, err := textField(fields, name)
	if err == nil && (cell == "" || len(cell) > maxCellName) {
		err = &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid " + name + ": must be the name of a cell"}
	}
	return cell, err
}

// moveField returns the id of a move.
func moveField(fields map[string]json.RawMessage) (string, error) {
	move, err := textField(fields, "move")
	if err == nil && (move == "" || len(move) > maxCellName) {
		err = &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid move: must be the id of the move", Hint: "it is in the answer to hold"}
	}
	return move, err
}

// moveArchive sends or receives the archive of a user.
func (s *Server) moveArchive(x *exchange, r *http.Request) {
	subject, ok := s.subject(x, r)
	if !ok {
		return
	}
	if subject.User == "" {
		x.refuse(r, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "a slot has no archive", Hint: "copy its users one by one"})
		return
	}
	if r.Method == http.MethodPut {
		s.loadMove(x, r, subject.User)
		return
	}
	if !x.skipBody(r) {
		return
	}
	x.Header().Set("Content-Type", archiveType)
	buffer := bufio.NewWriterSize(x, archiveBuffer) // an early error is answered as one
	err := s.cfg.Moves.Save(r.Context(), subject.User, buffer)
	if err == nil {
		err = buffer.Flush()
	}
	switch {
	case err == nil:
	case x.Status() == 0:
		x.Header().Del("Content-Type")
		x.fail(err)
	default:
		x.err, x.cut = err, err
	}
}

const archiveBuffer = 256 << 10

// archiveType is the media type of the archive of a user.
const archiveType = "application/zstd"

func (s *Server) loadMove(x *exchange, r *http.Request, user dreamcore.UserID) {
	from, move := r.URL.Query().Get("from"), r.URL.Query().Get("move")
	if from == "" || len(from) > maxCellName || move == "" || len(move) > maxCellName {
		x.refuse(r, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid query: from and move are required", Hint: "name the other cell, and the id of the move that it has begun"})
		return
	}
	status, err := s.cfg.Moves.Load(r.Context(), user, from, move, &slowBody{x, r.Body})
	if err != nil {
		x.refuse(r, err)
		return
	}
	x.answer(http.StatusOK, status)
}

// slowBody is a body that may take any time, as long as it goes on.
type slowBody struct {
	x    *exchange
	body io.Reader
}

func (b *slowBody) Read(p []byte) (int, error) {
	_ = b.x.Control.SetReadDeadline(time.Now().Add(b.x.limits.ReadTimeout)) // recorders of tests have none
	n, err := b.body.Read(p)
	if err == io.EOF {
		_ = b.x.Control.SetReadDeadline(time.Time{}) // a disconnecting client is noticed from now on
	}
	return n, err
}

// releaseMove ends a move in the source.
func (s *Server) releaseMove(x *exchange, r *http.Request) {
	subject, ok := s.subject(x, r)
	if !ok {
		return
	}
	fields, ok := x.readMembers(r, "to", "move")
	if !ok {
		return
	}
	to, err := cellField(fields, "to")
	move, err2 := moveField(fields)
	if err = cmp.Or(err, err2); err != nil {
		x.fail(err)
		return
	}
	status, err := s.cfg.Moves.Release(r.Context(), subject, to, move)
	x.result(status, err)
}

// acceptMove ends a move in the target.
func (s *Server) acceptMove(x *exchange, r *http.Request) {
	subject, ok := s.subject(x, r)
	if !ok {
		return
	}
	fields, ok := x.readMembers(r, "move", "away")
	if !ok {
		return
	}
	move, err := moveField(fields)
	away, err2 := usersField(fields, "away")
	if err = cmp.Or(err, err2); err != nil {
		x.fail(err)
		return
	}
	status, err := s.cfg.Moves.Accept(r.Context(), subject, move, away)
	x.result(status, err)
}

// undoMove takes a move back.
func (s *Server) undoMove(x *exchange, r *http.Request) {
	subject, ok := s.subject(x, r)
	if !ok {
		return
	}
	fields, ok := x.readMembers(r, "move")
	if !ok {
		return
	}
	move, err := moveField(fields)
	if err != nil {
		x.fail(err)
		return
	}
	status, err := s.cfg.Moves.Undo(r.Context(), subject, move)
	x.result(status, err)
}

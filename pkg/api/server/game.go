package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/work/job"
)

// Games plays games and has their pictures; *job.Service implements it and documents
// the errors.
type Games interface {
	CheckGame(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (job.Played, error)
	Shot(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, hash, screen string) (picture []byte, version string, err error)
}

// defaultScreen is the screen of a picture without one in the query.
const defaultScreen = "phone"

// errNoGames is the error of a server that plays no games.
func errNoGames() error { return &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "Not found"} }

// checkGame plays the game of a project and returns its findings.
func (s *Server) checkGame(x *exchange, r *http.Request) {
	user, project, _, ok := x.readProject(r)
	if !ok {
		return
	}
	if s.cfg.Games == nil {
		x.fail(errNoGames())
		return
	}
	if !s.admitted(x, user, project) {
		return
	}
	played, err := s.cfg.Games.CheckGame(r.Context(), user, project)
	x.result(played, rename(s.stopping(err), dreamcore.CodeNotFound, "Project not found"))
}

// thumbnail returns a picture of the game in a version, as PNG.
func (s *Server) thumbnail(x *exchange, r *http.Request) {
	x.leaveBody(r)
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		x.fail(&dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid query", Err: err})
		return
	}
	values := map[string]string{"user_id": "", "project_id": "", "version": "", "screen": ""}
	for name := range values {
		if values[name], err = parameter(q, name); err != nil {
			x.fail(err)
			return
		}
	}
	if values["screen"] == "" {
		values["screen"] = defaultScreen
	}
	user, err := dreamcore.ParseUserID(values["user_id"])
	if err != nil {
		x.fail(err)
		return
	}
	project, err := dreamcore.ParseProjectID(values["project_id"])
	if err != nil {
		x.fail(err)
		return
	}
	x.about(user, project)
	if s.cfg.Games == nil {
		x.fail(errNoGames())
		return
	}
	picture, version, err := s.cfg.Games.Shot(r.Context(), user, project, values["version"], values["screen"])
	if err != nil {
		x.fail(err)
		return
	}
	x.servePicture(r, picture, version)
}

// VersionHeader names the version of which a picture is.
const VersionHeader = "X-Version"

// servePicture answers with a PNG, and honours the conditions of the request.
func (x *exchange) servePicture(r *http.Request, picture []byte, version string) {
	h := x.Header()
	h.Set("Content-Type", "image/png")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "private, no-cache") // the newest one changes, and a check replaces that of a version
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("ETag", pictureTag(picture))
	h.Set(VersionHeader, version)
	http.ServeContent(x, r, "", time.Time{}, bytes.NewReader(picture))
}

// pictureTag returns the entity tag of a picture.
func pictureTag(picture []byte) string {
	sum := sha256.Sum256(picture)
	return `"` + hex.EncodeToString(sum[:16]) + `"`
}

// checkApplied plays the game that apply_files has changed, if the settings ask for
// it, and sends the findings. A check that is not possible is part of the result.
func (s *Server) checkApplied(ctx context.Context, q applyRequest, lang dreamcore.Language, send func(message) error) error {
	if s.cfg.Games == nil || s.cfg.CheckApplied == nil || !s.cfg.CheckApplied() {
		return nil
	}
	if err := send(status(dreamcore.NoteChecking.Text(lang))); err != nil {
		return err
	}
	played, err := s.cfg.Games.CheckGame(ctx, q.user, q.project)
	if err != nil {
		_, body := describe(err)
		played.Acceptance = dreamcore.Acceptance{Verdict: dreamcore.AcceptanceUnknown, Reason: body.Error}
		s.log.Warn("check the changed game", "user", string(q.user), "project", string(q.project), "error", err)
	}
	return send(message{event: dreamcore.AcceptanceEvent(played.Acceptance)})
}

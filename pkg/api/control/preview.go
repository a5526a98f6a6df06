package control

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// PreviewLink returns an address of a game for browsers, and its expiry. With a
// lifetime of 0 the service chooses it. The error is CodeUnreachable if no
// service is running, CodeSetup if it has no previews, and CodeNotFound if the
// project does not exist.
func (c *Client) PreviewLink(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, lifetime time.Duration) (address string, expires time.Time, err error) {
	query := url.Values{"user": {string(user)}, "project": {string(project)}, "for": {lifetime.String()}}
	resp, err := c.do(ctx, http.MethodPost, "/previews?"+query.Encode(), nil)
	if err != nil {
		return "", expires, err
	}
	defer resp.Body.Close()
	var l link
	if err := json.NewDecoder(resp.Body).Decode(&l); err != nil {
		return "", expires, fmt.Errorf("read link: %w", err)
	}
	return l.URL, l.Expires, nil
}

func (s *Server) preview(w http.ResponseWriter, r *http.Request) {
	address, expires, err := s.link(r.URL.Query())
	if err != nil {
		s.fail(w, err)
		return
	}
	s.answer(w, link{URL: address, Expires: expires.UTC()})
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
		return "", expires, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "the lifetime is not a duration", Hint: "write it with a unit, such as --for 24h", Err: err}
	}
	if s.previews == nil {
		return "", expires, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "the running service has no previews",
			Hint: "set preview_domain (or preview_listen) in its configuration and restart it: dreamcore serve",
		}
	}
	return s.previews.Link(user, project, lifetime)
}

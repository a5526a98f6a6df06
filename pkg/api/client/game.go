package client

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// playTimeout is how long the answer to CheckGame may take at least. The service
// bounds it by 100 s and the setting acceptance_limit, which is at most 2 minutes;
// then it closes the sandbox.
const playTimeout = 4 * time.Minute

// maxPicture bounds a picture of a game, in bytes.
const maxPicture = 2 << 20

// CheckGame makes the service play the game of a project, and returns what it has
// found, within the bounds of an Acceptance, and the version that was played, or "".
// CodeNotFound: there is no such project, or the service does not play games.
func (c *Client) CheckGame(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (a dreamcore.Acceptance, commit string, err error) {
	body, err := json.Marshal(struct {
		User    dreamcore.UserID    `json:"user_id"`
		Project dreamcore.ProjectID `json:"project_id"`
	}{user, project})
	if err != nil {
		return a, "", err
	}
	request := c.post(NameCheckGame, body)
	request.timeout = playTimeout
	var played struct {
		dreamcore.Acceptance
		Commit string `json:"commit"`
	}
	if err := c.record(ctx, request, &played); err != nil {
		return a, "", err
	}
	switch played.Verdict {
	case dreamcore.AcceptancePassed, dreamcore.AcceptanceFailed, dreamcore.AcceptanceUnknown:
	default:
		return a, "", c.malformed(NameCheckGame, fmt.Sprintf("the verdict is %q", c.text(played.Verdict)))
	}
	if strings.Trim(played.Commit, "0123456789abcdef") != "" || len(played.Commit) > 40 {
		return a, "", c.malformed(NameCheckGame, "commit is not a hash")
	}
	return played.Bounded(), played.Commit, nil
}

// Thumbnail returns a picture of the game in a version, as PNG of at most 2 MiB.
// version is 7 to 40 digits of a hash, or "" for the newest one that has a picture.
// screen is "phone" or "desktop". CodeNotFound: the game has no picture.
func (c *Client) Thumbnail(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, version, screen string) ([]byte, error) {
	query := projectQuery(user, project)
	query.Set("screen", screen)
	if version != "" {
		query.Set("version", version)
	}
	request := c.get(NameThumbnail, query, "image/png")
	request.limit = maxPicture
	raw, err := c.ok(ctx, request)
	if err == nil && !strings.HasPrefix(string(raw), "\x89PNG\r\n\x1a\n") {
		err = c.malformed(NameThumbnail, "it is not a PNG")
	}
	if err != nil {
		return nil, err
	}
	return raw, nil
}

package client

import (
	"context"
	"encoding/json"
	"net/url"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// PreviewLink returns an address at which browsers can play a game, and the time
// at which it expires. If lifetime is 0, the server chooses it; fractions of a
// second are dropped. The scheme of the address is http or https.
func (c *Client) PreviewLink(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, lifetime time.Duration) (address string, expires time.Time, err error) {
	body, err := json.Marshal(struct {
		User    dreamcore.UserID    `json:"user_id"`
		Project dreamcore.ProjectID `json:"project_id"`
		Seconds int64               `json:"expires_in,omitempty"`
	}{user, project, int64(lifetime / time.Second)})
	if err != nil {
		return "", expires, err
	}
	a, err := c.object(ctx, c.post(NamePreviewLink, body))
	if err != nil {
		return "", expires, err
	}
	r := &reader{a: a}
	address = r.text("url")
	r.decode("expires", &expires, "time")
	// The address may be passed to a program of the desktop.
	if u, err := url.Parse(address); r.fault == "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
		r.fault = `"url" is not an http or https address`
	}
	return address, expires, c.finish(NamePreviewLink, r)
}

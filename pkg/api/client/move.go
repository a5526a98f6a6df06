package client

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/residence"
	"github.com/notef-neighbor/dreamcore/pkg/work/relocation"
)

// Limits of the steps of a move.
const (
	moveStepLimit = 10 * time.Minute // of a step that erases or looks at many files
	archiveLimit  = 6 * time.Hour    // of the archive of a user
)

// Moves returns what moves in a cell, or has moved.
func (c *Client) Moves(ctx context.Context) ([]relocation.Status, error) {
	var list struct {
		Moves []relocation.Status `json:"moves"`
	}
	err := c.record(ctx, c.get("moves", nil, "application/json"), &list)
	return list.Moves, err
}

// Move returns the state of a user or a slot in a cell.
func (c *Client) Move(ctx context.Context, subject residence.Subject) (relocation.Status, error) {
	return c.moveStep(ctx, c.get("moves/"+subject.String(), nil, "application/json"))
}

// HoldMove begins a move; see relocation.Service.Hold.
func (c *Client) HoldMove(ctx context.Context, subject residence.Subject, o relocation.HoldOptions) (relocation.Status, error) {
	fields := map[string]any{"to": o.To, "wait_seconds": o.Wait.Seconds(), "cut": o.Cut, "stay": o.Stay}
	if o.Move != "" {
		fields["move"] = o.Move
	}
	body, err := json.Marshal(fields)
	if err != nil {
		return relocation.Status{}, err
	}
	return c.moveStep(ctx, c.post("moves/"+subject.String()+"/hold", body))
}

// ReleaseMove ends a move in the cell that had the subject.
func (c *Client) ReleaseMove(ctx context.Context, subject residence.Subject, to, move string) (relocation.Status, error) {
	return c.stepOf(ctx, subject, "release", map[string]any{"to": to, "move": move})
}

// AcceptMove ends a move in the cell that gets the subject.
func (c *Client) AcceptMove(ctx context.Context, subject residence.Subject, move string, away []dreamcore.UserID) (relocation.Status, error) {
	return c.stepOf(ctx, subject, "accept", map[string]any{"move": move, "away": away})
}

// UndoMove takes a move back.
func (c *Client) UndoMove(ctx context.Context, subject residence.Subject, move string) (relocation.Status, error) {
	return c.stepOf(ctx, subject, "undo", map[string]any{"move": move})
}

func (c *Client) stepOf(ctx context.Context, subject residence.Subject, step string, fields map[string]any) (relocation.Status, error) {
	body, err := json.Marshal(fields)
	if err != nil {
		return relocation.Status{}, err
	}
	return c.moveStep(ctx, c.post("moves/"+subject.String()+"/"+step, body))
}

func (c *Client) moveStep(ctx context.Context, r call) (s relocation.Status, err error) {
	r.timeout = moveStepLimit
	err = c.record(ctx, r, &s)
	return s, err
}

// UserArchive returns the archive of a user who is held. The caller must close it. It
// ends with an error if it is incomplete.
func (c *Client) UserArchive(ctx context.Context, user dreamcore.UserID) (io.ReadCloser, error) {
	r := c.get("moves/"+string(user)+"/archive", nil, "application/zstd")
	ctx, cancel := context.WithTimeoutCause(ctx, archiveLimit, &errTimeout{"end of the archive", archiveLimit})
	resp, err := c.do(ctx, r)
	if err != nil {
		cancel()
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return userArchive{resp.Body, cancel}, nil
	}
	defer cancel()
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, c.transportError(ctx, r.name, err)
	}
	return nil, c.statusError(r.name, resp, body)
}

type userArchive struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (a userArchive) Close() error {
	err := a.ReadCloser.Close()
	a.cancel()
	return err
}

// SendUserArchive sends the archive of a user to the cell that gets the user. from is
// the cell that has made it, for the move with this id.
func (c *Client) SendUserArchive(ctx context.Context, user dreamcore.UserID, from, move string, archive io.Reader) (s relocation.Status, err error) {
	r := call{
		name: "moves/" + string(user) + "/archive", method: http.MethodPut, query: url.Values{"from": {from}, "move": {move}},
		stream: archive, secret: c.secret(), accept: "application/json", timeout: archiveLimit,
	}
	err = c.record(ctx, r, &s)
	return s, err
}

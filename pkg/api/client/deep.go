package client

import (
	"context"
	"encoding/json"
)

// maxEvidence bounds the evidence of a deep check.
const maxEvidence = 100

// Evidence is one attempt of a deep check and the result that the server saw.
// Both texts are cleaned.
type Evidence struct {
	Tried   string  `json:"tried"`
	Seen    string  `json:"seen"`
	Seconds float64 `json:"seconds"`
}

// Deep is the result of a deep check.
type Deep struct {
	Check    string
	Evidence []Evidence
}

// TestDeep calls test_deep. The error has CodeNotFound if the server offers no deep checks.
func (c *Client) TestDeep(ctx context.Context, check, nonce string) (Deep, error) {
	body, err := json.Marshal(map[string]string{"check": check, "nonce": nonce})
	if err != nil {
		return Deep{}, err
	}
	r, err := c.check(ctx, NameTestDeep, body)
	if err != nil {
		return Deep{}, err
	}
	d := Deep{Check: r.text("check")}
	r.decode("evidence", &d.Evidence, "list of attempts")
	d.Evidence = d.Evidence[:min(len(d.Evidence), maxEvidence)]
	for i, e := range d.Evidence {
		d.Evidence[i].Tried, d.Evidence[i].Seen = c.text(e.Tried), c.text(e.Seen)
	}
	return d, c.finish(NameTestDeep, r)
}

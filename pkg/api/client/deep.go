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
	Tried   string
	Seen    string
	Seconds float64
}

// Deep is the result of a deep check.
type Deep struct {
	Failed   string // the server's reason; "" if the check was carried out
	Check    string
	Evidence []Evidence
}

// TestDeep calls test_deep. The error has CodeNotFound if the server offers no deep checks.
func (c *Client) TestDeep(ctx context.Context, check, nonce string) (Deep, error) {
	body, err := json.Marshal(map[string]string{"check": check, "nonce": nonce})
	if err != nil {
		return Deep{}, err
	}
	a, err := c.object(ctx, c.post(NameTestDeep, body))
	if err != nil {
		return Deep{}, err
	}
	r := &reader{a: a}
	if !r.flag("success") && r.fault == "" {
		reason := c.text(r.optional("error"))
		if reason == "" {
			reason = "no reason given"
		}
		return Deep{Failed: reason}, nil
	}
	d := Deep{Check: r.text("check")}
	var list []struct {
		Tried   string  `json:"tried"`
		Seen    string  `json:"seen"`
		Seconds float64 `json:"seconds"`
	}
	r.decode("evidence", &list, "list of attempts")
	for _, e := range list[:min(len(list), maxEvidence)] {
		d.Evidence = append(d.Evidence, Evidence{Tried: c.text(e.Tried), Seen: c.text(e.Seen), Seconds: e.Seconds})
	}
	return d, c.finish(NameTestDeep, r)
}

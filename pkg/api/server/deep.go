package server

import (
	"encoding/json"
	"net/http"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/work/probe"
)

// deepEvidence is one attempt of a check and its observed result.
type deepEvidence struct {
	Tried   string  `json:"tried"`
	Seen    string  `json:"seen"`
	Seconds float64 `json:"seconds"`
}

// testDeep runs the deep check named by the body: {"check":"key-leak"}. The
// check plants the optional "nonce", so that the client can judge by the
// evidence; "success" only means that the evidence is complete.
func (s *Server) testDeep(x *exchange, r *http.Request) {
	body, ok := x.readBody(r)
	if !ok {
		return
	}
	fields := map[string]json.RawMessage{"check": nil, "nonce": nil}
	if err := decodeObject(body, fields); err != nil {
		x.fail(invalidJSON(err))
		return
	}
	check, err := textField(fields, "check")
	if err != nil {
		x.fail(err)
		return
	}
	nonce, err := textField(fields, "nonce")
	if err != nil {
		x.fail(err)
		return
	}
	if check == "" {
		x.fail(&dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "check is required", Hint: `send {"check":"key-leak"}`})
		return
	}
	if !s.beginCheck(x, r) {
		return
	}
	defer s.endCheck()
	report, err := s.cfg.Prober.Deep(r.Context(), check, nonce)
	switch code := dreamcore.CodeOf(err); {
	case err != nil && (code == dreamcore.CodeInvalid || code == dreamcore.CodeNotFound):
		x.fail(err)
	case err != nil:
		x.checkFailed(err)
	default:
		x.answer(http.StatusOK, deepAnswer(report))
	}
}

func deepAnswer(r probe.Report) any {
	evidence := []deepEvidence{}
	for _, e := range r.Evidence {
		evidence = append(evidence, deepEvidence{e.Tried, e.Seen, e.Took.Seconds()})
	}
	return struct {
		Success  bool           `json:"success"`
		Check    string         `json:"check"`
		Seconds  float64        `json:"seconds"`
		Evidence []deepEvidence `json:"evidence"`
	}{true, r.Check, r.Took.Seconds(), evidence}
}

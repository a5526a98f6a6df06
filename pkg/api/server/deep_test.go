package server

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/work/probe"
)

func TestDeepCheckReturnsEvidence(t *testing.T) {
	var asked []string
	sv := start(t, options{prober: fakeProber{deep: func(_ context.Context, check, nonce string) (probe.Report, error) {
		asked = append(asked, check+" "+nonce)
		switch check {
		case "unknown":
			return probe.Report{}, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Unknown check"}
		case "broken":
			return probe.Report{}, &dreamcore.Error{Code: dreamcore.CodeInternal, Message: "the disk is gone"}
		}
		return probe.Report{Check: check, Evidence: []probe.Evidence{{Tried: "by path", Seen: "No such file", Took: 250e6}}, Took: 1e9}, nil
	}}})
	for _, tt := range []struct {
		body   string
		status int
		want   string
	}{
		{`{"check":"dns","nonce":"abc"}`, 200, `{"success":true,"check":"dns","seconds":1,"evidence":[{"tried":"by path","seen":"No such file","seconds":0.25}]}`},
		{`{"check":"unknown"}`, 400, "Unknown check"},
		{`{"check":"broken"}`, 200, `"success":false,"error":"the disk is gone"`},
		{`{}`, 400, "check is required"},
		{`{"Check":"dns"}`, 400, "check is required"},
		{`[]`, 400, "Invalid JSON"},
	} {
		resp, err := sv.client.Do(sv.request(http.MethodPost, "/test_deep", tt.body))
		if err != nil {
			t.Fatal(err)
		}
		raw, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != tt.status || !strings.Contains(string(raw), tt.want) {
			t.Errorf("%s: %d %s", tt.body, resp.StatusCode, raw)
		}
	}
	if len(asked) != 3 || asked[0] != "dns abc" {
		t.Errorf("asked: %q", asked)
	}
}

package server

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/response"
)

// The command for a reason is not in the log, so the log has the reason.
func TestTheLogHasTheReasonOfAnError(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&out, nil))
	s := &Server{log: log}
	r := httptest.NewRequest(http.MethodGet, "/x", nil)
	for _, reason := range []dreamcore.Reason{"disk.nearly_full", ""} {
		out.Reset()
		x := &exchange{Writer: response.New(httptest.NewRecorder(), 0), log: log}
		x.err = &dreamcore.Error{Code: dreamcore.CodeSetup, Reason: reason, Message: "the disk is nearly full", Hint: "free space"}
		s.account(x, r, route{})
		if got := out.String(); strings.Contains(got, `"reason":"disk.nearly_full"`) != (reason != "") || !strings.Contains(got, `"hint":"free space"`) {
			t.Errorf("%q: %s", reason, got)
		}
	}
}

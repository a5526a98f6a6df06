package server

import (
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestPrewarmFollowsTheContract(t *testing.T) {
	sv := start(t, options{})
	for _, want := range []string{"warmed", "already_warm"} {
		status, _, got := sv.post("/prewarm_sandbox", `{"user_id":`+quoted(strings.ToUpper(user))+`}`)
		if status != 200 || len(got) != 2 || got["status"] != want || got["sandbox_name"] != "user-"+user {
			t.Errorf("%d %v, want %s", status, got, want)
		}
	}
	for body, want := range map[string]string{
		"": badJSON, "[]": badJSON, "{}": "user_id is required", `{"user_id":7}`: badUser,
		`{"user_id":"../x"}`: badUser, `{"user_id":"{` + user + `}"}`: badUser,
	} {
		if status, _, got := sv.post("/prewarm-sandbox", body); status != 400 || got["error"] != want {
			t.Errorf("%q: %d %v", body, status, got)
		}
	}
	if got := sv.generator.started(); got != "" {
		t.Errorf("without a project: %s", got)
	}
	for _, body := range []string{`,"project_id":7}`, `,"project_id":"../x"}`} {
		if status, _, got := sv.post("/prewarm_sandbox", `{"user_id":`+quoted(user)+body); status != 400 || got["error"] != badProject {
			t.Errorf("%s: %d %v", body, status, got)
		}
	}
	body := `{"user_id":` + quoted(user) + `,"project_id":` + quoted(strings.ToUpper(projectID)) + `}`
	if status, _, got := sv.post("/prewarm_sandbox", body); status != 200 || len(got) != 2 || got["status"] != "already_warm" {
		t.Errorf("with a project: %d %v", status, got)
	}
	if got, want := sv.generator.started(), "warm "+user+"/"+projectID; got != want {
		t.Errorf("with a project: %q, want %q", got, want)
	}
	sv.generator.err = &dreamcore.Error{Code: dreamcore.CodeBusy, Message: "no room", Hint: "later"}
	if status, header, got := sv.post("/prewarm_sandbox", `{"user_id":`+quoted(user)+`}`); status != 429 || header.Get("Retry-After") == "" {
		t.Errorf("without room: %d %v %v", status, header, got)
	}
}

package e2e

import (
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"
)

// spendingScript is a job with many requests for the model.
var spendingScript = `{"conversations":[[` + strings.Repeat(`{"text":"`+strings.Repeat("words ", 300)+`","tools":[{"name":"Bash","input":{"command":"true","description":"wait"}}]},`, 20) + `{"text":"done"}]]}`

func TestAJobOverItsBudgetEndsWithinSecondsAndTheLedgerSurvives(t *testing.T) {
	h := newHost(t)
	h.env = append(h.env, "DREAMCORE_BUDGET_USER_DAY_TOKENS=20000")
	s := h.serve("--model-script", writeScript(t, spendingScript))
	begun := time.Now()
	events := s.events("/generate_game", generateBody(alice, project, "a snake game"))
	last, debug := events[len(events)-1], events[len(events)-2]
	if last["code"] != "RATE_LIMIT" || !strings.HasPrefix(last["userMessage"].(string), "The limit for making games") || last["recoverable"] != true {
		t.Errorf("the job ended with %v", last)
	}
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
	if debug["cost_usd"].(float64) <= 0 || debug["input_tokens"].(float64) <= 0 {
		t.Errorf("%v", debug)
	}
	s.kill() // as a crash does: the books and the audit log are there all the same

	var u struct {
		Rows []struct {
			Key       string
			Requests  int64
			Input     int64   `json:"input_tokens"`
			Output    int64   `json:"output_tokens"`
			CacheRead int64   `json:"cache_read_tokens"`
			Cost      float64 `json:"cost_usd"`
		}
	}
	s = h.serve("--model-script", "demo")
	if err := json.Unmarshal([]byte(h.must("usage", "--by", "user", "--json")), &u); err != nil {
		t.Fatal(err)
	}
	if len(u.Rows) != 1 || u.Rows[0].Key != alice || u.Rows[0].Cost != debug["cost_usd"] || u.Rows[0].Input+u.Rows[0].CacheRead+u.Rows[0].Output < 20000 {
		t.Errorf("%+v after %v", u, debug)
	}
	// The next job is refused at once, in the language of its player.
	begun = time.Now()
	resp := s.post("/generate_game", generateBody(alice, project, "a snake game"), "Accept-Language", "ja")
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	raw := string(body)
	if took := time.Since(begun); err != nil || took > 5*time.Second || !strings.Contains(raw, `"code":"RATE_LIMIT"`) || !strings.Contains(raw, "利用上限") || strings.Contains(raw, "Starting a sandbox") {
		t.Errorf("after %v: %s", took, raw)
	}
	if events := s.events("/generate_game", generateBody(bob, otherProject, "a snake game")); events[len(events)-1]["type"] != "error" && events[len(events)-1]["type"] != "done" {
		t.Errorf("another user: %v", events[len(events)-1])
	}
	if resp := s.post("/test_auth", "", "X-Modal-Secret", "wrong"); resp.Body.Close() != nil || resp.StatusCode != 401 {
		t.Errorf("a wrong secret: %s", resp.Status)
	}
	h.must("sandbox", "stop", "user-"+bob)
	out := h.must("audit")
	for _, want := range []string{
		"allowed sandbox_start user=" + alice, "allowed model         user=" + alice, "reason=over the limit budget_user_day_tokens",
		"refused job           user=" + alice, "refused auth", "allowed operator      user=" + bob + " request=stop user-" + bob,
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the audit log does not say %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, s.secret) || strings.Contains(out, "sk-dreamcore-") {
		t.Error("the audit log holds a secret")
	}
	for line := range strings.Lines(h.must("audit", "--json", "--user", bob, "--since", "1h")) {
		var e struct{ User string }
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.User != bob {
			t.Errorf("%v %s", err, line)
		}
	}
	if csv := h.must("usage", "--by", "model", "--csv"); !strings.HasPrefix(csv, "model,requests,") || strings.Count(csv, "\n") < 2 {
		t.Errorf("%s", csv)
	}
	if r := h.run("usage", "--by", "moon"); r.code != 2 || !strings.Contains(r.stderr, "--by user") {
		t.Errorf("%+v", r)
	}
	if r := h.run("usage", "--since", "soon"); r.code != 2 {
		t.Errorf("%+v", r)
	}
}

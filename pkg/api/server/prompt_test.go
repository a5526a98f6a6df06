package server

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/work/prompt"
)

// askFunc is a fake model.
type askFunc func(ctx context.Context, call gateway.HostCall) (gateway.HostAnswer, error)

func (f askFunc) Ask(ctx context.Context, call gateway.HostCall) (gateway.HostAnswer, error) {
	return f(ctx, call)
}

// goodAnswers holds a valid answer for each embedded endpoint.
var goodAnswers = map[string]string{
	"detect_intent": "chat", "v2_detect_intent": "chat", "detect_skills": "[]", "chat_haiku": `{"message":"hi"}`, "chat_sonnet": `{"message":"hi"}`,
	"generate_publish_info": `{"title":"T","description":"D","howToPlay":"H","tags":[]}`, "v2_chat_haiku": "words",
	"v2_generate_code": `{"files":[{"path":"index.html","content":"<p>"}]}`,
}

func answersWell(_ context.Context, call gateway.HostCall) (gateway.HostAnswer, error) {
	return gateway.HostAnswer{Text: goodAnswers[call.Name]}, nil
}

// promptBody is a request that every embedded endpoint accepts.
const promptBody = `{"user_id":"` + user + `","project_id":"` + projectID + `","message":"how?","prompt":"p","game_code":"c"}`

// withPrompts adds prompt endpoints with a fake model; global is the directory of
// the global volume.
func withPrompts(t testing.TB, global string, ask askFunc, change ...func(*prompt.Config)) func(*Config) {
	open := func() (*os.Root, error) { return os.OpenRoot(global) }
	set, err := prompt.Open(prompt.Source{Open: open, Reserved: ReservedNames()})
	if err != nil {
		t.Fatal(err)
	}
	return func(c *Config) {
		cfg := prompt.Config{Set: set, Model: ask, Projects: c.Projects, Global: open}
		for _, f := range change {
			f(&cfg)
		}
		c.Prompts = prompt.New(cfg)
	}
}

func TestPromptEndpointsHaveAllAddressForms(t *testing.T) {
	sv := start(t, options{config: withPrompts(t, t.TempDir(), answersWell)})
	for _, name := range prompt.Shipped() {
		dashes := strings.ReplaceAll(name, "_", "-")
		for _, a := range []struct{ host, path string }{
			{"", "/" + name}, {"", "/" + dashes}, {"acme--dreamcore-" + dashes + ".modal.run", "/"}, {"ACME--x-" + strings.ToUpper(dashes) + ".example.com:8443", "/?x=1"},
		} {
			req := sv.request(http.MethodPost, a.path, promptBody)
			if a.host != "" {
				req.Host = a.host
			}
			status, _, body := object(t, sv.do(req))
			if status != http.StatusOK || body["fallback"] != nil {
				t.Errorf("%s%s: status %d, %v", a.host, a.path, status, body)
			}
			switch name {
			case "detect_intent", "v2_detect_intent":
				if body["intent"] != "chat" {
					t.Errorf("%s: %v", name, body)
				}
			case "v2_generate_code":
				if body["engine_version"] != "v2" {
					t.Errorf("%s: %v", name, body)
				}
			}
		}
	}
}

func TestPromptEndpointsNeedTheSecretAndPOST(t *testing.T) {
	sv := start(t, options{config: withPrompts(t, t.TempDir(), func(context.Context, gateway.HostCall) (gateway.HostAnswer, error) {
		t.Error("the model was called")
		return gateway.HostAnswer{}, errors.New("no")
	})})
	for _, name := range prompt.Shipped() {
		for _, secret := range []string{"", "wrong-secret"} {
			req := sv.request(http.MethodPost, "/"+name, promptBody)
			req.Header.Set(SecretHeader, secret)
			status, _, body := object(t, sv.do(req))
			if diff := cmp.Diff(map[string]any{"error": "Unauthorized"}, body); status != http.StatusUnauthorized || diff != "" {
				t.Errorf("%s: status %d %s", name, status, diff)
			}
		}
		if res := sv.do(sv.request(http.MethodGet, "/"+name, "")); res.StatusCode != http.StatusMethodNotAllowed || res.Header.Get("Allow") != "POST" {
			t.Errorf("%s: GET has status %d, Allow %q", name, res.StatusCode, res.Header.Get("Allow"))
		}
		for body, want := range map[string]string{"": "Invalid JSON", "[]": "Invalid JSON", `"x"`: "Invalid JSON"} {
			if status, _, got := sv.post("/"+name, body); status != http.StatusBadRequest || got["error"] != want {
				t.Errorf("%s %q: status %d, %v", name, body, status, got)
			}
		}
		if status, _, _ := sv.post("/"+name, `{"x":"`+strings.Repeat("x", DefaultMaxBody)+`"}`); status != http.StatusRequestEntityTooLarge {
			t.Errorf("%s: a long body has status %d", name, status)
		}
	}
	for path, want := range map[string]string{
		"/detect_intent": "message is required", "/detect_skills": "message is required", "/chat_haiku": "message is required", "/chat_sonnet": "message is required",
		"/generate_publish_info": "user_id is required", "/v2_detect_intent": "message is required", "/v2_chat_haiku": "prompt is required", "/v2_generate_code": "user_id is required",
	} {
		if status, _, got := sv.post(path, "{}"); status != http.StatusBadRequest || got["error"] != want {
			t.Errorf("%s: status %d, %v; want %q", path, status, got, want)
		}
	}
}

func TestFailedPromptIsReportedInThePlayersLanguage(t *testing.T) {
	sv := start(t, options{config: withPrompts(t, t.TempDir(), func(context.Context, gateway.HostCall) (gateway.HostAnswer, error) {
		return gateway.HostAnswer{}, &gateway.HostError{Code: dreamcore.FailAPITimeout}
	})})
	for header, lang := range map[string]dreamcore.Language{"ja,en;q=0.5": dreamcore.Japanese, "": dreamcore.English} {
		req := sv.request(http.MethodPost, "/chat_haiku", promptBody)
		req.Header.Set("Accept-Language", header)
		status, _, body := object(t, sv.do(req))
		want := map[string]any{"message": dreamcore.Failure{Code: dreamcore.FailAPITimeout}.UserMessage(lang), "suggestions": []any{}}
		if diff := cmp.Diff(want, body); status != http.StatusInternalServerError || diff != "" {
			t.Errorf("status %d %s", status, diff)
		}
	}
	if status, _, body := sv.post("/detect_intent", `{"message":"元に戻して"}`); status != 200 || body["intent"] != "restore" || body["fallback"] != true {
		t.Errorf("status %d, %v", status, body)
	}
}

func TestRequestLimitIs429(t *testing.T) {
	sv := start(t, options{config: withPrompts(t, t.TempDir(), func(context.Context, gateway.HostCall) (gateway.HostAnswer, error) {
		return gateway.HostAnswer{}, &gateway.HostError{Code: dreamcore.FailRateLimit, Over: &dreamcore.OverBudget{Limit: "user_requests", After: 100 * time.Millisecond}}
	})})
	status, header, body := sv.post("/v2_chat_haiku", promptBody)
	if status != http.StatusTooManyRequests || header.Get("Retry-After") != "1" || body["error"] == nil {
		t.Errorf("status %d, Retry-After %q, %v", status, header.Get("Retry-After"), body)
	}
}

const ownPrompt = "model: m\nprompt: x\nanswer: {kind: text, key: own}\nfailure: {status: 500, body: {error: x}}\n"

func TestPromptEndpointsCanChangeWhileServing(t *testing.T) {
	global := t.TempDir()
	var clock sync.Mutex
	now := time.Now()
	later := func() {
		clock.Lock()
		defer clock.Unlock()
		now = now.Add(time.Minute)
	}
	open := func() (*os.Root, error) { return os.OpenRoot(global) }
	set, err := prompt.Open(prompt.Source{Open: open, Reserved: ReservedNames(), Now: func() time.Time {
		clock.Lock()
		defer clock.Unlock()
		return now
	}})
	if err != nil {
		t.Fatal(err)
	}
	ask := askFunc(func(context.Context, gateway.HostCall) (gateway.HostAnswer, error) {
		return gateway.HostAnswer{Text: "said"}, nil
	})
	sv := start(t, options{config: func(c *Config) {
		c.Prompts = prompt.New(prompt.Config{Set: set, Model: ask, Projects: c.Projects, Global: open})
	}})
	if status, _, _ := sv.post("/name_ideas", "{}"); status != http.StatusNotFound {
		t.Errorf("before: status %d", status)
	}
	if err := os.Mkdir(filepath.Join(global, prompt.Dir), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"name_ideas", "health", "generate_game", "x_test_auth", "jobs"} {
		if err := os.WriteFile(filepath.Join(global, prompt.Dir, name+".yaml"), []byte(ownPrompt), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	later()
	if status, _, body := sv.post("/name-ideas", "{}"); status != http.StatusOK || body["own"] != "said" {
		t.Errorf("a new one: status %d, %v", status, body)
	}
	// The table's endpoints are unchanged, in every form.
	if res := sv.do(sv.request(http.MethodGet, "/health", "")); res.StatusCode != http.StatusOK {
		t.Errorf("health: status %d", res.StatusCode)
	}
	req := sv.request(http.MethodPost, "/", "")
	req.Host = "acme--x-test-auth.modal.run"
	if status, _, body := object(t, sv.do(req)); status != http.StatusOK || body["message"] == nil {
		t.Errorf("test_auth: status %d, %v", status, body)
	}
	if status, _, _ := sv.post("/jobs", "{}"); status == http.StatusOK {
		t.Error("jobs became a prompt endpoint")
	}
	if err := os.Remove(filepath.Join(global, prompt.Dir, "name_ideas.yaml")); err != nil {
		t.Fatal(err)
	}
	later()
	if status, _, _ := sv.post("/name_ideas", "{}"); status != http.StatusNotFound {
		t.Errorf("after: status %d", status)
	}
}

// TestSlowPromptsDoNotDelayGenerations generates a game while 50 calls wait for
// the model.
func TestSlowPromptsDoNotDelayGenerations(t *testing.T) {
	const calls = 50
	release, began := make(chan struct{}), make(chan struct{}, calls)
	sv := start(t, options{config: withPrompts(t, t.TempDir(), func(ctx context.Context, _ gateway.HostCall) (gateway.HostAnswer, error) {
		began <- struct{}{}
		select {
		case <-release:
		case <-ctx.Done():
		}
		return gateway.HostAnswer{Text: "edit"}, nil
	})})
	var done sync.WaitGroup
	for range calls {
		req := sv.request(http.MethodPost, "/detect_intent", promptBody)
		done.Go(func() {
			res, err := sv.client.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			if res.StatusCode != http.StatusOK {
				t.Errorf("a prompt has status %d", res.StatusCode)
			}
		})
	}
	for range calls {
		<-began
	}
	res := sv.do(sv.request(http.MethodPost, "/generate_game", generateBody))
	if events := readStream(t, res.Body).all(); len(events) != 2 {
		t.Errorf("the game's events: %v", events)
	}
	if status, _, _ := sv.post("/test_sandbox_io", ""); status != http.StatusOK {
		t.Errorf("a check has status %d", status)
	}
	close(release)
	done.Wait()
}

func TestTooManyPromptsAre429(t *testing.T) {
	release, began := make(chan struct{}), make(chan struct{}, 1)
	sv := start(t, options{config: withPrompts(t, t.TempDir(), func(context.Context, gateway.HostCall) (gateway.HostAnswer, error) {
		began <- struct{}{}
		<-release
		return gateway.HostAnswer{Text: "edit"}, nil
	}, func(c *prompt.Config) { c.MaxRunning, c.WaitLimit = 1, time.Millisecond })})
	var done sync.WaitGroup
	req := sv.request(http.MethodPost, "/detect_intent", promptBody)
	done.Go(func() {
		if res, err := sv.client.Do(req); err == nil {
			res.Body.Close()
		}
	})
	<-began
	status, header, body := sv.post("/detect_intent", promptBody)
	if status != http.StatusTooManyRequests || header.Get("Retry-After") == "" || body["error"] == nil {
		t.Errorf("status %d, %v, %v", status, header, body)
	}
	close(release)
	done.Wait()
}

func TestConnectionLimitsDoNotApplyToASlowModel(t *testing.T) {
	const limit = 50 * time.Millisecond
	add := withPrompts(t, t.TempDir(), func(context.Context, gateway.HostCall) (gateway.HostAnswer, error) {
		time.Sleep(8 * limit) // a slow model
		return gateway.HostAnswer{Text: "edit"}, nil
	})
	sv := start(t, options{config: func(c *Config) {
		add(c)
		c.Limits.WriteTimeout, c.Limits.ReadTimeout, c.Limits.IdleTimeout = limit, limit, limit
	}})
	if status, _, body := sv.post("/detect_intent", promptBody); status != http.StatusOK || body["intent"] != "edit" {
		t.Errorf("status %d, %v", status, body)
	}
}

func TestPromptEndsWithItsClient(t *testing.T) {
	began, ended := make(chan struct{}), make(chan struct{})
	sv := start(t, options{config: withPrompts(t, t.TempDir(), func(ctx context.Context, _ gateway.HostCall) (gateway.HostAnswer, error) {
		close(began)
		<-ctx.Done()
		close(ended)
		return gateway.HostAnswer{}, context.Cause(ctx)
	})})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-began
		cancel()
	}()
	if res, err := sv.client.Do(sv.request(http.MethodPost, "/detect_intent", promptBody).WithContext(ctx)); err == nil {
		res.Body.Close()
		t.Error("got a response")
	}
	<-ended
}

func TestReservedNamesIncludeEveryEndpoint(t *testing.T) {
	names := ReservedNames()
	for _, e := range (&Server{}).endpoints() {
		if !slices.Contains(names, e.name) {
			t.Errorf("%s is missing", e.name)
		}
	}
	for _, name := range prompt.Shipped() {
		if slices.Contains(names, name) || !regexp.MustCompile(`^[a-z0-9_]+$`).MatchString(name) {
			t.Errorf("%s is both", name)
		}
	}
}

package prompt

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

const (
	user    = "0b9e2c2e-93c5-4b0c-8a08-9d3c1a5b6f10"
	project = "5c0fbe1c-7f0b-4a3d-b0cb-0f0d5a9d3c11"
	ids     = `"user_id":"` + user + `","project_id":"` + project + `"`
)

// fakeModel answers with a text or an error, and records the calls.
type fakeModel struct {
	answer func(gateway.HostCall) (string, error)

	mu    sync.Mutex
	calls []gateway.HostCall
}

func (m *fakeModel) Ask(ctx context.Context, call gateway.HostCall) (gateway.HostAnswer, error) {
	m.mu.Lock()
	m.calls = append(m.calls, call)
	m.mu.Unlock()
	text, err := m.answer(call)
	if ctx.Err() != nil {
		return gateway.HostAnswer{}, context.Cause(ctx)
	}
	return gateway.HostAnswer{Text: text, Stop: "end_turn"}, err
}

func says(text string) func(gateway.HostCall) (string, error) {
	return func(gateway.HostCall) (string, error) { return text, nil }
}

func fails(err *gateway.HostError) func(gateway.HostCall) (string, error) {
	return func(gateway.HostCall) (string, error) { return "", err }
}

// rig is a service with a fake model, a global volume and a project.
type rig struct {
	t       *testing.T
	dir     string // the global volume
	clock   time.Time
	log     bytes.Buffer
	set     *Set
	model   *fakeModel
	volumes *volume.Store
	service *Service
}

func newRig(t *testing.T, answer func(gateway.HostCall) (string, error), change ...func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), clock: time.Unix(1_800_000_000, 0), model: &fakeModel{answer: answer}}
	log := slog.New(slog.NewTextHandler(&r.log, nil))
	open := func() (*os.Root, error) { return os.OpenRoot(r.dir) }
	var err error
	if r.set, err = Open(Source{Open: open, Reserved: []string{"generate_game", "health"}, Logger: log, Now: func() time.Time { return r.clock }}); err != nil {
		t.Fatal(err)
	}
	base := t.TempDir()
	if r.volumes, err = volume.Open(filepath.Join(base, "volumes"), volume.Options{HomesDir: filepath.Join(base, "homes"), UID: os.Geteuid(), GID: os.Getegid()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.volumes.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := r.volumes.Create(volume.Data); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Set: r.set, Model: r.model, Projects: r.volumes, Global: open, Models: map[string]string{"haiku": "small-1", "sonnet": "large-1"}, Logger: log}
	for _, c := range change {
		c(&cfg)
	}
	r.service = New(cfg)
	return r
}

// put writes a file into the global volume.
func (r *rig) put(name, text string) {
	r.t.Helper()
	file := filepath.Join(r.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
	// Two versions of the same size within one clock tick have the same stat.
	r.clock = r.clock.Add(time.Minute)
	if err := os.Chtimes(file, r.clock, r.clock); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) skill(name, description string) {
	r.put(".claude/skills/"+name+"/SKILL.md", "---\nname: other\ndescription: |\n  "+description+"\n---\n# Text\n")
}

func (r *rig) answer(name, body string) Result {
	r.t.Helper()
	got, err := r.service.Answer(r.t.Context(), name, []byte(body), dreamcore.English)
	if err != nil {
		r.t.Fatalf("%s: %v", name, err)
	}
	return got
}

func (r *rig) want(name, body string, status int, want map[string]any) Result {
	r.t.Helper()
	got := r.answer(name, body)
	if diff := cmp.Diff(want, got.Body); diff != "" || got.Status != status {
		r.t.Errorf("%s %s: status %d, want %d (-want +got):\n%s", name, body, got.Status, status, diff)
	}
	return got
}

func (r *rig) lastCall() gateway.HostCall { return r.model.calls[len(r.model.calls)-1] }

func TestAnswersMatchTheContract(t *testing.T) {
	r := newRig(t, func(c gateway.HostCall) (string, error) {
		return map[string]string{
			"detect_intent": "restore", "v2_detect_intent": "chat", "detect_skills": `["p5js-sound","nonsense"]`,
			"chat_haiku": `{"message":"hi","suggestions":["a"]}`, "chat_sonnet": `{"message":"ho"}`,
			"generate_publish_info": `{"title":"T","description":"D","howToPlay":"H","tags":["x"],"more":1}`,
			"v2_chat_haiku":         "words", "v2_generate_code": `{"files":[{"path":"index.html","content":"<p>"}],"summary":"s"}`,
		}[c.Name], nil
	})
	r.skill("p5js-setup", "sets p5.js up")
	r.skill("p5js-sound", "plays sounds")
	r.want("detect_intent", `{"message":"m"}`, 200, map[string]any{"intent": "restore"})
	r.want("v2_detect_intent", `{"message":"m"}`, 200, map[string]any{"intent": "chat"})
	r.want("detect_skills", `{"message":"m","dimension":"2d","existing_code":"x"}`, 200, map[string]any{"skills": []any{"p5js-setup", "p5js-sound"}})
	r.want("detect_skills", `{"message":"m","dimension":"3d"}`, 200, map[string]any{"skills": []any{"p5js-sound"}})
	r.want("chat_haiku", `{"message":"m"}`, 200, map[string]any{"message": "hi", "suggestions": []any{"a"}})
	r.want("chat_sonnet", `{"message":"m","game_spec":{"a":1},"conversation_history":[{"role":"user","content":"c"}]}`, 200, map[string]any{"message": "ho", "suggestions": []any{}})
	r.want("chat_haiku", `{"message":"m","raw_output":true}`, 200, map[string]any{"result": `{"message":"hi","suggestions":["a"]}`})
	r.want("generate_publish_info", `{`+ids+`,"project_name":"p","game_code":"c","spec_content":"s"}`, 200,
		map[string]any{"title": "T", "description": "D", "howToPlay": "H", "tags": []any{"x"}})
	r.want("v2_chat_haiku", `{"prompt":"p"}`, 200, map[string]any{"result": "words"})
	r.want("v2_generate_code", `{`+ids+`,"prompt":"p"}`, 200, map[string]any{
		"files": []any{map[string]any{"path": "index.html", "content": "<p>"}}, "summary": "s", "engine_version": "v2",
	})
}

func TestAnswersWhenTheModelFails(t *testing.T) {
	const lost = "The connection to the AI was lost. Please try again in a moment."
	const unknown = "Something unexpected happened. Please contact support if it happens again."
	skills := func(names ...any) map[string]any { return map[string]any{"skills": names, "fallback": true} }
	for name, tt := range map[string]struct {
		answer   func(gateway.HostCall) (string, error)
		sentence string
		v2code   string
	}{
		"no answer":     {fails(&gateway.HostError{Code: dreamcore.FailNetwork}), lost, "v2_codegen_error"},
		"not an answer": {says(""), unknown, "v2_output_invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, tt.answer)
			for message, word := range map[string]string{"make it faster": "edit", "undo": "restore", "how?": "chat"} {
				for _, name := range []string{"detect_intent", "v2_detect_intent"} {
					if got := r.want(name, `{"message":"`+message+`"}`, 200, map[string]any{"intent": word, "fallback": true}); got.Cause == nil {
						t.Error("the cause is missing")
					}
				}
			}
			r.want("detect_skills", `{"message":"m"}`, 200, skills("p5js-setup", "p5js-input", "p5js-collision"))
			r.want("detect_skills", `{"message":"m","dimension":"3d"}`, 200, skills("threejs-setup", "threejs-input", "threejs-lighting"))
			for _, name := range []string{"chat_haiku", "chat_sonnet"} {
				r.want(name, `{"message":"m"}`, 500, map[string]any{"message": tt.sentence, "suggestions": []any{}})
			}
			r.want("generate_publish_info", `{`+ids+`,"game_code":"c"}`, 500, map[string]any{"error": tt.sentence})
			r.want("v2_chat_haiku", `{"prompt":"p"}`, 502, map[string]any{"error": tt.sentence})
			r.want("v2_generate_code", `{`+ids+`,"prompt":"p"}`, 502, map[string]any{"error": tt.sentence, "error_code": tt.v2code})
		})
	}
}

func TestMessageIsInThePlayersLanguage(t *testing.T) {
	r := newRig(t, fails(&gateway.HostError{Code: dreamcore.FailNetwork}))
	got, err := r.service.Answer(t.Context(), "chat_haiku", []byte(`{"message":"m"}`), dreamcore.Japanese)
	want := dreamcore.Failure{Code: dreamcore.FailNetwork}.UserMessage(dreamcore.Japanese)
	if err != nil || got.Body["message"] != want {
		t.Errorf("%v, %v", got.Body, err)
	}
}

func TestExceededLimitIsReported(t *testing.T) {
	soon := &gateway.HostError{Code: dreamcore.FailRateLimit, Over: &dreamcore.OverBudget{Limit: "user_requests", After: 3 * time.Second}}
	r := newRig(t, fails(soon))
	got := r.answer("chat_haiku", `{"message":"m"}`)
	if want := (dreamcore.Failure{Code: dreamcore.FailRateLimit}).UserMessage(dreamcore.English); got.Status != 429 || got.RetryAfter != 3*time.Second || got.Body["message"] != want {
		t.Errorf("%+v", got)
	}
	r.want("detect_intent", `{"message":"undo"}`, 200, map[string]any{"intent": "restore", "fallback": true})

	spent := &gateway.HostError{Code: dreamcore.FailRateLimit, Over: &dreamcore.OverBudget{Limit: "budget_user_day_usd"}}
	r = newRig(t, fails(spent))
	got = r.answer("chat_haiku", `{"message":"m"}`)
	if want := (dreamcore.Failure{Code: dreamcore.FailRateLimit, Spent: true}).UserMessage(dreamcore.English); got.Status != 500 || got.Body["message"] != want {
		t.Errorf("%+v", got)
	}
}

func TestRequestFields(t *testing.T) {
	r := newRig(t, says("edit"))
	r.put("prompts/typed.yaml", `
fields:
  text: {type: string, max_bytes: 4}
  number: {type: number, default: 7}
  yes: {type: bool, default: true}
  list: {type: list, max_items: 2, max_bytes: 20}
  object: {type: object}
  whatever: {type: any, default: d}
model: m
prompt: "{{.text}}|{{.number}}|{{.yes}}|{{text .list}}|{{text .object}}|{{text .whatever}}"
answer: {kind: text, key: said}
failure: {status: 500, body: {error: x}}
`)
	for _, tt := range []struct{ name, body, code, message string }{
		{"detect_intent", ``, "INVALID", "Invalid JSON"},
		{"detect_intent", `[]`, "INVALID", "Invalid JSON"},
		{"detect_intent", `null`, "INVALID", "Invalid JSON"},
		{"detect_intent", `{"message":"x"`, "INVALID", "Invalid JSON"},
		{"detect_intent", "{\"message\":\"\xff\"}", "INVALID", "Invalid JSON"},
		{"detect_intent", `{}`, "INVALID", "message is required"},
		{"detect_intent", `{"message":null}`, "INVALID", "message is required"},
		{"detect_intent", `{"message":" \n"}`, "INVALID", "message is required"},
		{"detect_intent", `{"message":5}`, "INVALID", "Invalid message: must be a string"},
		{"detect_intent", `{"message":"` + strings.Repeat("x", 1<<20+1) + `"}`, "TOO_LARGE", "message is too long: at most 1048576 bytes"},
		{"generate_publish_info", `{}`, "INVALID", "user_id is required"},
		{"generate_publish_info", `{"user_id":"x"}`, "INVALID", "Invalid user_id: must be UUID format"},
		{"v2_generate_code", `{"user_id":"` + user + `"}`, "INVALID", "project_id is required"},
		{"v2_generate_code", `{"user_id":"` + user + `","project_id":"../x"}`, "INVALID", "Invalid project_id: must be UUID format"},
		{"v2_generate_code", `{` + ids + `}`, "INVALID", "prompt is required"},
		{"typed", `{"text":"12345"}`, "TOO_LARGE", "text is too long: at most 4 bytes"},
		{"typed", `{"number":"1"}`, "INVALID", "Invalid number: must be a number"},
		{"typed", `{"yes":1}`, "INVALID", "Invalid yes: must be a bool"},
		{"typed", `{"list":[1,2,3]}`, "TOO_LARGE", "list is too long: at most 2 items"},
		{"typed", `{"list":["` + strings.Repeat("x", 30) + `"]}`, "TOO_LARGE", "list is too long: at most 20 bytes"},
		{"typed", `{"object":[]}`, "INVALID", "Invalid object: must be an object"},
		{"unknown", `{}`, "NOT_FOUND", "Not found"},
	} {
		_, err := r.service.Answer(t.Context(), tt.name, []byte(tt.body), dreamcore.English)
		e, ok := errors.AsType[*dreamcore.Error](err)
		if !ok || string(e.Code) != tt.code || e.Message != tt.message {
			t.Errorf("%s %.60s: %v", tt.name, tt.body, err)
		}
	}
	if n := len(r.model.calls); n != 0 {
		t.Fatalf("the model was asked %d times", n)
	}
	r.answer("typed", `{}`)
	if got := r.lastCall().Prompt; got != "|7|true|[]|{}|d" {
		t.Errorf("defaults: %s", got)
	}
	r.answer("typed", "\ufeff"+`{"text":"a","text":"b","number":1.5,"yes":false,"list":[1],"object":{"k":"v"},"whatever":[null],"Text":"no"}`)
	if got := r.lastCall().Prompt; got != `b|1.5|false|[1]|{"k":"v"}|[null]` {
		t.Errorf("given: %s", got)
	}
}

// In a bubble, the bound of the time is never met first, however slow the machine is.
func TestTooLongExpandedPromptNamesTheField(t *testing.T) { synctest.Test(t, tooLongExpanded) }

func tooLongExpanded(t *testing.T) {
	r := newRig(t, says("edit"))
	r.put("prompts/twice.yaml", `fields: {"text": {type: string, max_bytes: 1048576}, "short": {}}
model: haiku
system: "{{.short}}"
prompt: "{{.text}}{{.text}}"
answer: {kind: text, key: out}
failure: {status: 502, body: {}}
`)
	r.put("prompts/double.yaml", `fields: {"text": {}}
model: haiku
prompt: "{{$x := .text}}{{range 64}}{{$x = print $x $x}}{{end}}done"
answer: {kind: text, key: out}
failure: {status: 502, body: {}}
`)
	p, err := r.volumes.Project(user, project)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Root().WriteFile("index.html", bytes.Repeat([]byte("h"), 1000), 0o644); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", 1<<20-100)
	for name, tt := range map[string]struct{ body, field string }{
		"v2_generate_code": {`{` + ids + `,"prompt":"` + long + `"}`, "prompt"},
		"twice":            {`{"short":"s","text":"` + long + `"}`, "text"},
		"double":           {`{"text":"some text"}`, "text"},
	} {
		wantTooLong(t, r, name, tt.body, tt.field)
	}
	if len(r.model.calls) != 0 {
		t.Errorf("%d calls", len(r.model.calls))
	}
}

// The HTTP contract has 502 for a failure of the model, also if it refuses the
// prompt as too long.
func TestPromptThatTheModelRefusesIsAFailureOfTheModel(t *testing.T) {
	r := newRig(t, fails(&gateway.HostError{Code: dreamcore.FailUnknown, Status: 400}))
	if got := r.answer("v2_generate_code", `{`+ids+`,"prompt":"make it"}`); got.Status != 502 || got.Body["error_code"] != "v2_codegen_error" {
		t.Errorf("v2_generate_code: %+v", got)
	}
	if got := r.answer("detect_intent", `{"message":"m"}`); got.Status != 200 || got.Body["fallback"] != true {
		t.Errorf("detect_intent: %+v", got)
	}
}

func wantTooLong(t *testing.T, r *rig, name, body, field string) {
	t.Helper()
	_, err := r.service.Answer(t.Context(), name, []byte(body), dreamcore.English)
	e, ok := errors.AsType[*dreamcore.Error](err)
	if !ok || e.Code != dreamcore.CodeTooLarge || !strings.HasPrefix(e.Message, field+" is too long: ") || e.Hint == "" {
		t.Errorf("%s: %.200v (%s)", name, err, dreamcore.CodeOf(err))
	}
}

func TestChargedAccount(t *testing.T) {
	var charged []string
	r := newRig(t, says("edit"), func(c *Config) {
		c.Meter = func(user, project, job string) gateway.Meter {
			charged = append(charged, user+" "+project+" "+job)
			return nil
		}
	})
	for _, body := range []string{
		`{"message":"m"}`, `{"message":"m",` + ids + `}`, `{"message":"m","user_id":"` + strings.ToUpper(user) + `"}`, `{"message":"m","user_id":"nonsense"}`, `{"message":"m","user_id":5}`,
	} {
		r.answer("detect_intent", body)
	}
	want := []string{
		"prompts  prompt:detect_intent", user + " " + project + " prompt:detect_intent", user + "  prompt:detect_intent",
		"prompts  prompt:detect_intent", "prompts  prompt:detect_intent",
	}
	if diff := cmp.Diff(want, charged); diff != "" {
		t.Error(diff)
	}
}

func TestModelAliases(t *testing.T) {
	r := newRig(t, says("x"))
	r.put("prompts/named.yaml", strings.Replace(smallFile, "haiku", "vendor/model-9", 1))
	r.answer("named", `{"message":"m"}`)
	r.answer("v2_chat_haiku", `{"prompt":"m"}`)
	r.service.Apply(map[string]string{"haiku": "small-2"})
	r.answer("v2_chat_haiku", `{"prompt":"m"}`)
	var got []string
	for _, c := range r.model.calls {
		got = append(got, c.Model)
	}
	if want := []string{"vendor/model-9", "small-1", "small-2"}; !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}

func TestTemplatesAccessSkillsAndFiles(t *testing.T) {
	r := newRig(t, says("x"))
	r.skill("p5js-setup", "sets p5.js up")
	r.skill("bad name", "is not a skill")
	r.put(".claude/skills/plain/SKILL.md", "no front matter")
	r.put(".claude/skills/empty/other.md", "x")
	if err := os.Symlink("/etc", filepath.Join(r.dir, ".claude/skills/link")); err != nil {
		t.Fatal(err)
	}
	r.answer("detect_skills", `{"message":"m","existing_code":"let x"}`)
	if got := r.lastCall(); !strings.Contains(got.System, "- p5js-setup: sets p5.js up\n") || !strings.Contains(got.System, "- plain:") ||
		strings.Contains(got.System, "bad name") || strings.Contains(got.System, "empty") || strings.Contains(got.System, "link") || !strings.Contains(got.Prompt, "let x") {
		t.Errorf("%s\n%s", got.System, got.Prompt)
	}

	r.answer("v2_generate_code", `{`+ids+`,"prompt":"make it"}`)
	if got := r.lastCall().Prompt; got != "make it" {
		t.Errorf("without a project: %q", got)
	}
	p, err := r.volumes.Project(user, project)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for name, text := range map[string]string{
		"index.html": "<index>", "a.js": strings.Repeat("a", 60_000), "b.js": strings.Repeat("é", 60_000), "c.js": "never", "image.png": "png",
		".hidden.js": "hidden", "aa.js": "nul\x00",
	} {
		if err := p.Root().WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	r.answer("v2_generate_code", `{`+ids+`,"prompt":"make it"}`)
	got := r.lastCall().Prompt
	if len(got) > 101_000 || len(got) < 99_000 || !strings.Contains(got, "=== index.html ===\n<index>") || strings.Index(got, "<index>") > strings.Index(got, "aaaa") ||
		!strings.HasSuffix(got, "make it") || strings.Contains(got, "never") || strings.Contains(got, "png") || strings.Contains(got, "hidden") || strings.Contains(got, "nul") {
		t.Errorf("%d bytes: %.300s", len(got), got)
	}
}

func TestPromptCallsHaveTheirOwnSlots(t *testing.T) {
	release, began := make(chan struct{}), make(chan struct{}, 10)
	r := newRig(t, func(gateway.HostCall) (string, error) {
		began <- struct{}{}
		<-release
		return "edit", nil
	}, func(c *Config) { c.MaxRunning, c.WaitLimit = 2, time.Minute }) // long enough for a busy machine
	var done sync.WaitGroup
	for range 2 {
		done.Go(func() { r.answer("detect_intent", `{"message":"m"}`) })
		<-began
	}
	r.service.cfg.WaitLimit = time.Millisecond
	_, err := r.service.Answer(t.Context(), "detect_intent", []byte(`{"message":"m"}`), dreamcore.English)
	if dreamcore.CodeOf(err) != dreamcore.CodeBusy {
		t.Errorf("a third one: %v", err)
	}
	// An invalid request is answered without a slot.
	if _, err = r.service.Answer(t.Context(), "detect_intent", []byte(`{}`), dreamcore.English); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r.service.cfg.WaitLimit = time.Hour
	if _, err = r.service.Answer(ctx, "detect_intent", []byte(`{"message":"m"}`), dreamcore.English); dreamcore.CodeOf(err) != dreamcore.CodeBusy {
		t.Errorf("disconnected client: %v", err)
	}
	close(release)
	done.Wait()
	r.answer("detect_intent", `{"message":"m"}`)
	if n := r.service.waiting.Load(); n != 0 || !r.service.running.TryAcquire(2) {
		t.Errorf("%d wait, or a slot is not free", n)
	}
}

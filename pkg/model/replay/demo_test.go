package replay_test

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
)

// agent processes the model's answers like the CLI: the same conversation, and file
// tools with the same rules.
type agent struct {
	t    *testing.T
	srv  *httptest.Server
	dir  string
	talk []message
	read map[string]bool
}

func newAgent(t *testing.T) *agent {
	t.Helper()
	return &agent{t: t, srv: serveScript(t, replay.Demo()), dir: t.TempDir(), read: map[string]bool{}}
}

// prompt runs one prompt to its end and returns the last text. The test fails if a
// tool call fails.
func (a *agent) prompt(text string) string {
	a.t.Helper()
	a.talk = append(a.talk, user(reminder, text))
	for range 20 {
		request := body(a.talk...)
		request["system"] = "# Environment\n - Primary working directory: " + a.dir + "\n"
		m := ask(a.t, a.srv, request)
		a.talk = append(a.talk, message{Role: "assistant", Content: m.Blocks})
		var results []block
		for _, b := range m.Blocks {
			if b.Type != "tool_use" {
				continue
			}
			if err := a.use(b); err != nil {
				a.t.Fatalf("%s %.80s: %v", b.Name, b.Input, err)
			}
			results = append(results, block{Type: "tool_result", ToolUseID: b.ID, Content: "done"})
		}
		if m.StopReason != "tool_use" {
			return textOf(m)
		}
		a.talk = append(a.talk, message{Role: "user", Content: results})
	}
	a.t.Fatal("the talk does not end")
	return ""
}

func TestTheMistakeOfTheDemoIsMendedOnlyIfItWasFound(t *testing.T) {
	a := newAgent(t)
	a.srv = serveScript(t, replay.DemoRepair())
	game := func() string {
		raw, err := os.ReadFile(filepath.Join(a.dir, "game.js"))
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	a.prompt("a game with stars")
	broken := game()
	if !strings.Contains(broken, "paintStars(drops)") || !strings.Contains(broken, "function paintStar(") {
		t.Error("the game has no mistake")
	}
	talk := a.talk
	if said := a.prompt("it does not work"); game() != broken || !strings.Contains(said, "do not know") {
		t.Errorf("without the finding: %q", said)
	}
	a.talk = talk
	a.prompt(`<findings>` + "\n" + `{"check":"errors","file":"game.js","line":109,"message":"Uncaught ReferenceError: paintStars is not defined"}`)
	if mended := game(); strings.Contains(mended, "paintStars") || !strings.Contains(mended, "paintStar(d)") {
		t.Errorf("with the finding: %.3000s", mended)
	}
}

func (a *agent) use(call block) error {
	var in struct {
		Path    string `json:"file_path"`
		Content string `json:"content"`
		Old     string `json:"old_string"`
		New     string `json:"new_string"`
	}
	if err := json.Unmarshal(call.Input, &in); err != nil {
		return err
	}
	if filepath.Dir(in.Path) != a.dir {
		return fmt.Errorf("%s is not in the project directory", in.Path)
	}
	old, err := os.ReadFile(in.Path)
	missing := os.IsNotExist(err)
	if err != nil && !missing {
		return err
	}
	switch call.Name {
	case "Read":
		if missing {
			return fmt.Errorf("no such file")
		}
		a.read[in.Path] = true
		return nil
	case "Write":
		if !missing && !a.read[in.Path] {
			return fmt.Errorf("file has not been read yet")
		}
		a.read[in.Path] = true
		return os.WriteFile(in.Path, []byte(in.Content), 0o600)
	case "Edit":
		if n := strings.Count(string(old), in.Old); missing || !a.read[in.Path] || n != 1 || in.Old == in.New {
			return fmt.Errorf("read %v, old string found %d times", a.read[in.Path], n)
		}
		return os.WriteFile(in.Path, []byte(strings.Replace(string(old), in.Old, in.New, 1)), 0o600)
	}
	return fmt.Errorf("no such tool")
}

// newSession forgets which files were read, as a resumed CLI may.
func (a *agent) newSession() { a.read = map[string]bool{} }

func (a *agent) file(name string) string {
	a.t.Helper()
	data, err := os.ReadFile(filepath.Join(a.dir, name))
	if err != nil {
		a.t.Fatal(err)
	}
	return string(data)
}

func TestDemoWritesGameAndChangesItOnEveryPrompt(t *testing.T) {
	a := newAgent(t)
	if text := a.prompt("a snake game with ice physics"); !strings.Contains(text, "demo script") {
		t.Errorf("the answer does not say that it is a demo: %q", text)
	}
	for _, name := range []string{"index.html", "style.css", "game.js"} {
		want, err := os.ReadFile(filepath.Join("demo", name))
		if err != nil {
			t.Fatal(err)
		}
		if a.file(name) != string(want) {
			t.Errorf("%s differs from the embedded file", name)
		}
	}

	a.newSession()
	before := a.file("game.js") + a.file("index.html")
	a.prompt("make it faster")
	if !strings.Contains(a.file("game.js"), "cruise: 290") || a.file("game.js")+a.file("index.html") == before {
		t.Error("the second prompt does not make the snake faster")
	}
	for i := range 4 {
		a.newSession()
		before := a.file("game.js")
		a.prompt(fmt.Sprintf("one more thing %d", i))
		if a.file("game.js") == before {
			t.Errorf("prompt %d changes nothing", i+3)
		}
	}
}

func TestDemoDoesNotWait(t *testing.T) {
	script, err := os.ReadFile(filepath.Join("demo", "script.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"delay_ms", "fail"} {
		if strings.Contains(string(script), `"`+bad+`"`) {
			t.Errorf("the demo has %s", bad)
		}
	}
}

func TestDemoWorksWithoutWorkingDirectory(t *testing.T) {
	srv := serveScript(t, replay.Demo())
	request := body(user("prompt"))
	delete(request, "system")
	for _, b := range ask(t, srv, request).Blocks {
		if b.Type != "tool_use" {
			continue
		}
		var in struct {
			Path string `json:"file_path"`
		}
		if err := json.Unmarshal(b.Input, &in); err != nil || !strings.HasPrefix(in.Path, "./") {
			t.Errorf("path %q, want a relative one (%v)", in.Path, err)
		}
	}
}

func TestGameNeedsNoNetwork(t *testing.T) {
	a := newAgent(t)
	a.prompt("prompt")
	for _, name := range []string{"index.html", "style.css", "game.js"} {
		text := strings.ReplaceAll(a.file(name), "http://www.w3.org/2000/svg", "")
		for _, bad := range []string{"http://", "https://", "@import", "fetch(", "XMLHttpRequest", "importScripts"} {
			if strings.Contains(text, bad) {
				t.Errorf("%s contains %q", name, bad)
			}
		}
	}
}

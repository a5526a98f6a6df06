// Package gameview shows games to operators. view.go shows a generation as it happens:
// to programs the events unchanged, to people a line for each action and an animated
// one for the current action. acceptance.go shows the result of a check, picture.go
// writes a screenshot, and serve.go opens the finished game in a browser.
package gameview

import (
	"encoding/json"
	"fmt"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// View shows one generation. It is not safe for concurrent use.
type View struct {
	Free    bool   // the model costs nothing
	Sandbox string // title of the sandbox

	// Began and Ended are the times of the job; Ended is zero if it ends now.
	Began, Ended time.Time

	io       *term.IO
	p        *term.Printer
	progress *term.Progress
	project  string // directory of the project in the sandbox, a prefix that file names are shown without
	result   cliResult
	commit   string
}

// cliResult has the members of the CLI's last line that the view shows.
type cliResult struct {
	Turns int     `json:"num_turns"`
	Cost  float64 `json:"total_cost_usd"`
}

// New prints the heading of a generation and returns its view. The caller must
// call Stop.
func New(io *term.IO, req dreamcore.Request) *View {
	v := &View{io: io, p: io.Human(), Began: time.Now(), Sandbox: "sandbox"}
	v.project = "/data/users/" + strings.ToLower(req.UserID) + "/projects/" + strings.ToLower(req.ProjectID) + "/"
	if !v.io.JSON {
		v.p.Heading("dreamcore generate", v.p.Fit(req.Prompt, max(20, v.p.Columns()-24)))
	}
	return v
}

// Job shows which job makes the game, and in which project: before anything else,
// so that an interrupted command has said it.
func (v *View) Job(job string, user dreamcore.UserID, project dreamcore.ProjectID) error {
	if v.io.JSON {
		return v.io.WriteJSON(struct {
			Type    string              `json:"type"`
			Job     string              `json:"job_id,omitempty"`
			User    dreamcore.UserID    `json:"user_id"`
			Project dreamcore.ProjectID `json:"project_id"`
		}{"job", job, user, project})
	}
	if job != "" { // a backend on Modal does not name it
		v.p.Pairs(term.Pair{Key: "job    ", Value: job, Tone: term.Strong}, term.Pair{Key: "project", Value: string(project), Tone: term.Strong})
	} else {
		v.p.Pairs(term.Pair{Key: "project", Value: string(project), Tone: term.Strong})
	}
	return nil
}

// Warn shows a warning, to programs as an event.
func (v *View) Warn(message string) error {
	return v.Event(dreamcore.WarningEvent(message))
}

func (v *View) took() time.Duration {
	if v.Ended.IsZero() {
		return time.Since(v.Began)
	}
	return v.Ended.Sub(v.Began)
}

// Event shows one event.
func (v *View) Event(e dreamcore.Event) error {
	if dreamcore.EventType(e) == "debug" { // the agent may print one too; the job's comes later
		v.commit = commitOf(e)
	}
	if v.io.JSON {
		return v.io.WriteLine(e)
	}
	var ev struct {
		Type    string          `json:"type"`
		Message json.RawMessage `json:"message"`
		Content string          `json:"content"`
		Level   string          `json:"level"`
		Subtype string          `json:"subtype"`
		Version string          `json:"claude_code_version"`
		Model   string          `json:"model"`
		cliResult
	}
	if json.Unmarshal(e, &ev) != nil {
		return nil
	}
	switch ev.Type {
	case "status":
		v.doing(text(ev.Message))
	case "warning":
		v.p.Status(term.Warned, text(ev.Message))
	case "log":
		if ev.Level == "error" || ev.Level == "warning" {
			v.p.Status(term.Warned, ev.Content)
		}
	case "system":
		if ev.Subtype == "init" {
			v.p.Status(term.Done, "Claude Code "+ev.Version+" in a "+v.Sandbox, ev.Model)
			v.waiting()
		}
	case "user": // the result of a tool
		v.waiting()
	case "assistant":
		v.assistant(ev.Message)
	case "result":
		v.result = ev.cliResult
	case "acceptance":
		var a dreamcore.Acceptance
		if json.Unmarshal(e, &a) == nil {
			v.Stop()
			ShowAcceptance(v.p, a)
		}
	}
	return nil
}

// Commit returns the version that the job has made, 7 to 40 digits; "" if it has made
// none, or has not ended.
func (v *View) Commit() string {
	if n := len(v.commit); n < 7 || n > 40 || strings.Trim(v.commit, "0123456789abcdef") != "" {
		return ""
	}
	return v.commit
}

// commitOf returns the version that an event of the type debug names, or "".
func commitOf(e dreamcore.Event) string {
	var ev struct {
		Commit string `json:"git_commit"`
	}
	if json.Unmarshal(e, &ev) != nil {
		return ""
	}
	return ev.Commit
}

// assistant shows the text of the model and its tool calls.
func (v *View) assistant(message json.RawMessage) {
	var m struct {
		Content []struct {
			Type  string `json:"type"`
			Text  string `json:"text"`
			Name  string `json:"name"`
			Input struct {
				File    string `json:"file_path"`
				Content string `json:"content"`
				Command string `json:"command"`
				Pattern string `json:"pattern"`
			} `json:"input"`
		} `json:"content"`
	}
	if json.Unmarshal(message, &m) != nil {
		return
	}
	for _, b := range m.Content {
		switch {
		case b.Type == "text" && strings.TrimSpace(b.Text) != "":
			v.p.Status(term.Note, v.p.Fit(b.Text, max(20, v.p.Columns()-4)))
		case b.Type == "tool_use" && b.Name == "Write":
			v.p.Status(term.Done, v.short(b.Input.File), term.Size(int64(len(b.Input.Content))))
		case b.Type == "tool_use" && b.Name == "Edit":
			v.p.Status(term.Done, v.short(b.Input.File), "edited")
		case b.Type == "tool_use":
			what := b.Input.Command + b.Input.Pattern + v.short(b.Input.File)
			v.doing(b.Name + " " + v.p.Fit(what, 60))
		}
	}
}

// short returns the name of a file relative to the project.
func (v *View) short(file string) string {
	if file == "" {
		return ""
	}
	return strings.TrimPrefix(path.Clean(file), v.project)
}

func text(raw json.RawMessage) string {
	var s string
	_ = json.Unmarshal(raw, &s) // other values are not shown
	return s
}

func (v *View) doing(what string) {
	if v.progress == nil {
		v.progress = v.p.Progress(what)
		return
	}
	v.progress.Update(what)
}

// waiting replaces the current action after it has ended. In a pipe, where every
// text is a line of its own, it would only be noise.
func (v *View) waiting() {
	if v.p.Terminal() {
		v.doing("Waiting for the model")
	}
}

// Next says what to do with a game that is done: it is in dir, unless that is "", or
// open in a browser. user is "" for the user of this terminal.
func (v *View) Next(dir string, open bool, project, user string) {
	if v.io.JSON {
		return
	}
	p := v.io.Stdout()
	switch {
	case open:
	case dir != "":
		p.Hint("open " + filepath.Join(dir, "index.html") + " in a browser")
	default:
		p.Hint("copy the game with -o DIR, or play it at once with --open")
	}
	if user != "" {
		user = " --user " + user
	}
	p.Hint("run: dreamcore generate --project " + project + user + " \"make it faster\"")
}

// Stop ends the animation.
func (v *View) Stop() {
	if v.progress != nil {
		v.progress.Stop()
		v.progress = nil
	}
}

// End shows the end of a generation.
func (v *View) End(o client.Outcome) {
	if o.Done {
		v.Done()
	} else {
		v.Failed(o)
	}
}

// Done shows the end of a successful generation.
func (v *View) Done() {
	if v.io.JSON {
		return
	}
	details := []string{term.Duration(v.took())}
	if v.result.Turns > 0 {
		details = append(details, fmt.Sprintf("%d turns", v.result.Turns))
		if !v.Free {
			details = append(details, term.Dollars(v.result.Cost))
		}
	}
	if v.commit != "" {
		details = append(details, "version "+v.commit)
	}
	v.p.Success("The game is done", details...)
}

// Failed shows the end of a generation that failed. The caller prints the hint.
func (v *View) Failed(o client.Outcome) {
	if v.io.JSON {
		return
	}
	code := string(o.Code)
	if o.HasExit {
		code += fmt.Sprintf(", exit code %d", o.ExitCode)
	}
	v.p.Failure(o.UserMessage, code, term.Duration(v.took()))
}

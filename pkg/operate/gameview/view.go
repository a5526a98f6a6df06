// Package gameview shows a generation as it happens: to programs the events
// unchanged, to people a line for each action and an animated one for the current
// action.
package gameview

import (
	"encoding/json"
	"fmt"
	"path"
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

	io       *term.IO
	p        *term.Printer
	progress *term.Progress
	began    time.Time
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
	v := &View{io: io, p: io.Human(), began: time.Now(), Sandbox: "sandbox"}
	v.project = "/data/users/" + strings.ToLower(req.UserID) + "/projects/" + strings.ToLower(req.ProjectID) + "/"
	if !v.io.JSON {
		v.p.Heading("dreamcore generate", term.Truncate(term.Clean(req.Prompt), max(20, v.p.Columns()-24)))
	}
	return v
}

// Event shows one event.
func (v *View) Event(e dreamcore.Event) error {
	if v.io.JSON {
		return v.io.WriteLine(e)
	}
	var ev struct {
		Type    string          `json:"type"`
		Message json.RawMessage `json:"message"`
		Content string          `json:"content"`
		Level   string          `json:"level"`
		Commit  string          `json:"git_commit"`
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
		v.line(term.Warned, text(ev.Message))
	case "log":
		if ev.Level == "error" || ev.Level == "warning" {
			v.line(term.Warned, ev.Content)
		}
	case "system":
		if ev.Subtype == "init" {
			v.line(term.Done, "Claude Code "+ev.Version+" in a "+v.Sandbox, ev.Model)
			v.waiting()
		}
	case "user": // the result of a tool
		v.waiting()
	case "assistant":
		v.assistant(ev.Message)
	case "result":
		v.result = ev.cliResult
	case "debug":
		v.commit = ev.Commit
	}
	return nil
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
			v.line(term.Note, term.Truncate(term.Clean(b.Text), max(20, v.p.Columns()-4)))
		case b.Type == "tool_use" && b.Name == "Write":
			v.line(term.Done, v.short(b.Input.File), term.Size(int64(len(b.Input.Content))))
		case b.Type == "tool_use" && b.Name == "Edit":
			v.line(term.Done, v.short(b.Input.File), "edited")
		case b.Type == "tool_use":
			what := b.Input.Command + b.Input.Pattern + v.short(b.Input.File)
			v.doing(b.Name + " " + term.Truncate(term.Clean(what), 60))
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
	_ = json.Unmarshal(raw, &s)
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

// line prints a status line above the animated one.
func (v *View) line(m term.Mark, what string, details ...string) {
	v.p.Status(m, what, details...)
}

// Stop ends the animation.
func (v *View) Stop() {
	if v.progress != nil {
		v.progress.Stop()
		v.progress = nil
	}
}

// Done shows the end of a successful generation.
func (v *View) Done() {
	if v.io.JSON {
		return
	}
	details := []string{term.Duration(time.Since(v.began))}
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
	v.p.Failure(o.UserMessage, code, term.Duration(time.Since(v.began)))
}

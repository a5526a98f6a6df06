package main

import (
	"encoding/json"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// gameView shows a generation as it happens: to programs the events unchanged, to
// people a line for each action and an animated one for the current action.
type gameView struct {
	io       *term.IO
	p        *term.Printer
	progress *term.Progress
	began    time.Time
	project  string // directory of the project in the sandbox, a prefix that file names are shown without
	result   cliResult
	commit   string
	free     bool   // the model costs nothing
	sandbox  string // title of the sandbox; a service does not report its engine
	causes   causes // of a failure, if the job runs in this process
}

// cliResult has the members of the CLI's last line that the view shows.
type cliResult struct {
	Turns int     `json:"num_turns"`
	Cost  float64 `json:"total_cost_usd"`
}

func newGameView(a *app, req dreamcore.Request) *gameView {
	v := &gameView{io: a.io, p: a.io.Human(), began: time.Now(), sandbox: "sandbox"}
	v.project = "/data/users/" + strings.ToLower(req.UserID) + "/projects/" + strings.ToLower(req.ProjectID) + "/"
	if !v.io.JSON {
		v.p.Heading("dreamcore generate", term.Truncate(term.Clean(req.Prompt), max(20, v.p.Columns()-24)))
	}
	return v
}

// demo announces that a script answers instead of a model.
func (v *gameView) demo() {
	v.free = true
	if v.io.JSON {
		return
	}
	v.p.Warning("This is a demo: a script replaces the model", "the agent and the sandbox are real")
	v.p.Hint("to use the model, run: dreamcore setup --anthropic-key-file FILE")
}

// engine sets the engine of the sandbox.
func (v *gameView) engine(runtime string) { v.sandbox = daemon.EngineTitle(runtime) + " sandbox" }

// root announces the root file system of the sandbox, unless it is this machine's.
func (v *gameView) root(name string) {
	if name != "" && !v.io.JSON {
		v.p.Info("The sandbox starts from the " + name)
	}
}

// event shows one event.
func (v *gameView) event(e dreamcore.Event) error {
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
			v.line(term.Done, "Claude Code "+ev.Version+" in a "+v.sandbox, ev.Model)
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
func (v *gameView) assistant(message json.RawMessage) {
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
func (v *gameView) short(file string) string {
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

func (v *gameView) doing(what string) {
	if v.progress == nil {
		v.progress = v.p.Progress(what)
		return
	}
	v.progress.Update(what)
}

// waiting replaces the current action after it has ended. In a pipe, where every
// text is a line of its own, it would only be noise.
func (v *gameView) waiting() {
	if v.p.Terminal() {
		v.doing("Waiting for the model")
	}
}

// line prints a status line above the animated one.
func (v *gameView) line(m term.Mark, what string, details ...string) {
	v.p.Status(m, what, details...)
}

func (v *gameView) stop() {
	if v.progress != nil {
		v.progress.Stop()
		v.progress = nil
	}
}

// done shows the end of a successful generation.
func (v *gameView) done() {
	if v.io.JSON {
		return
	}
	details := []string{term.Duration(time.Since(v.began))}
	if v.result.Turns > 0 {
		details = append(details, fmt.Sprintf("%d turns", v.result.Turns))
		if !v.free {
			details = append(details, term.Dollars(v.result.Cost))
		}
	}
	if v.commit != "" {
		details = append(details, "version "+v.commit)
	}
	v.p.Success("The game is done", details...)
}

// failed shows the end of a generation that failed.
func (v *gameView) failed(o client.Outcome) {
	if v.io.JSON {
		return
	}
	code := string(o.Code)
	if o.HasExit {
		code += fmt.Sprintf(", exit code %d", o.ExitCode)
	}
	v.p.Failure(o.UserMessage, code, term.Duration(time.Since(v.began)))
	hint := v.causes.show(v.p)
	if hint == "" {
		hint = nextCommand(o)
	}
	v.p.Hint(hint)
}

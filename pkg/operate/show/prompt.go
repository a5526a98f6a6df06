package show

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
	"github.com/notef-neighbor/dreamcore/pkg/work/prompt"
)

type promptRow struct {
	Name        string   `json:"name"`
	Source      string   `json:"source"`
	Model       string   `json:"model"`
	Answer      string   `json:"answer"`
	Fields      []string `json:"fields"`
	Description string   `json:"description"`
}

func newPromptRow(e *prompt.Endpoint, models map[string]string) promptRow {
	r := promptRow{
		Name: e.Name, Source: "volume", Model: prompt.ModelName(e.Model, models), Answer: string(e.Answer.Kind),
		Fields: []string{}, Description: e.Description,
	}
	if e.Shipped {
		r.Source = "embedded"
	}
	for _, f := range e.Fields {
		r.Fields = append(r.Fields, f.Name)
	}
	return r
}

// Prompts shows the prompt endpoints, with the models that they use, and reports
// files that cannot be used.
func Prompts(io *term.IO, set *prompt.Set, models map[string]string) error {
	names, _ := set.Names()
	var rows []promptRow
	for _, name := range names {
		rows = append(rows, newPromptRow(set.Get(name), models))
	}
	err := List[promptRow]{
		Key: "prompts", Columns: Columns("NAME", "SOURCE", "MODEL", "ANSWER", "DESCRIPTION"),
		Cells: func(r promptRow) []string { return []string{r.Name, r.Source, r.Model, r.Answer, r.Description} },
	}.Show(io, rows, map[string]any{"problems": problemRows(set)})
	if n := len(set.Problems()); n > 0 && !io.JSON {
		io.Stderr().Warning(fmt.Sprintf("%d files cannot be used", n))
		io.Stderr().Hint("run: dreamcore prompts check")
	}
	return err
}

// Prompt prints the file of a prompt endpoint.
func Prompt(io *term.IO, e *prompt.Endpoint, models map[string]string) error {
	row := struct {
		promptRow
		File string `json:"file"`
	}{newPromptRow(e, models), string(e.Text)}
	return Value(io, row, func(p *term.Printer) { p.Print(strings.TrimSuffix(string(e.Text), "\n")) })
}

type problemRow struct {
	File  string `json:"file"`
	Error string `json:"error"`
	Hint  string `json:"hint,omitempty"`
}

func problemRows(set *prompt.Set) []problemRow {
	rows := []problemRow{}
	for _, p := range set.Problems() {
		rows = append(rows, problemRow{p.File, p.Err.Error(), dreamcore.HintOf(p.Err)})
	}
	return rows
}

// PromptProblems shows the errors in the files of prompt endpoints.
func PromptProblems(io *term.IO, set *prompt.Set) error {
	names, _ := set.Names()
	problems := set.Problems()
	object := map[string]any{"ok": len(problems) == 0, "prompts": len(names), "problems": problemRows(set)}
	return Value(io, object, func(p *term.Printer) {
		for _, problem := range problems {
			message := problem.Err.Error()
			if e, ok := errors.AsType[*dreamcore.Error](problem.Err); ok {
				message = e.Message
			}
			p.Failure(problem.File)
			for _, fault := range strings.Split(message, "; ") {
				p.Print("  " + fault)
			}
		}
		if len(problems) == 0 {
			p.Success(fmt.Sprintf("%d prompt endpoints, no errors", len(names)))
		}
	})
}

// Answer shows the answer of a prompt endpoint, and who has given it. redact removes
// secrets from a text.
func Answer(io *term.IO, name, model string, result prompt.Result, took time.Duration, redact func(string) string) error {
	cause := ""
	if result.Cause != nil {
		cause = redact(result.Cause.Error())
	}
	said := redact(result.Said)
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(result.Body); err != nil {
		return err
	}
	if io.JSON {
		return io.WriteJSON(map[string]any{
			"endpoint": name, "model": model, "status": result.Status, "answer": result.Body, "seconds": took.Seconds(), "error": cause, "said": said,
		})
	}
	io.Stdout().Print(strings.TrimSuffix(body.String(), "\n"))
	p := io.Stderr()
	if result.Cause == nil {
		p.Success(fmt.Sprintf("%s: answered by %s in %s", name, model, term.Duration(took)))
		return nil
	}
	p.Failure(fmt.Sprintf("%s: status %d, not answered by the model", name, result.Status), cause)
	if said != "" {
		p.Hint("the model said: " + p.Fit(said, 500))
	}
	return nil
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
	"github.com/notef-neighbor/dreamcore/pkg/work/prompt"
)

func newPromptsCmd(a *app) *cobra.Command {
	return group("prompts", "List, check and try prompt endpoints",
		"A prompt endpoint is one short call of a model, defined in a YAML file. Some are\n"+
			"embedded; prompts/NAME.yaml in the volume dreamcore-global replaces one or adds another.",
		"  dreamcore prompts show detect_intent > detect_intent.yaml\n"+
			"  dreamcore volume put dreamcore-global detect_intent.yaml prompts/detect_intent.yaml",
		newPromptsListCmd(a), newPromptsShowCmd(a), newPromptsCheckCmd(a), newPromptsRunCmd(a))
}

// withPrompts opens the prompt endpoints for one call.
func (a *app) withPrompts(do func(s *daemon.State, set *prompt.Set) error) error {
	return a.withState(func(s *daemon.State) error {
		set, err := s.OpenPrompts(nil)
		if err != nil {
			return err
		}
		return do(s, set)
	})
}

func newPromptsListCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the prompt endpoints", Args: usageArgs(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			return a.withPrompts(func(s *daemon.State, set *prompt.Set) error { return listPrompts(a, s, set) })
		},
	}
}

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

func listPrompts(a *app, s *daemon.State, set *prompt.Set) error {
	names, _ := set.Names()
	var rows []promptRow
	for _, name := range names {
		rows = append(rows, newPromptRow(set.Get(name), s.Config.PromptModels))
	}
	err := list[promptRow]{
		key: "prompts", columns: columns("NAME", "SOURCE", "MODEL", "ANSWER", "DESCRIPTION"),
		cells: func(r promptRow) []string { return []string{r.Name, r.Source, r.Model, r.Answer, r.Description} },
	}.show(a.io, rows, map[string]any{"problems": problemRows(set)})
	if n := len(set.Problems()); n > 0 && !a.io.JSON {
		p := a.io.Stderr()
		p.Warning(fmt.Sprintf("%d files cannot be used", n))
		p.Hint("run: dreamcore prompts check")
	}
	return err
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

// findPrompt returns the endpoint called name, with underscores or dashes.
func findPrompt(set *prompt.Set, name string) (*prompt.Endpoint, error) {
	if e := set.Get(strings.ReplaceAll(name, "-", "_")); e != nil {
		return e, nil
	}
	return nil, &dreamcore.Error{
		Code: dreamcore.CodeNotFound, Message: fmt.Sprintf("there is no prompt endpoint %q", name), Hint: "see them with: dreamcore prompts list",
	}
}

func newPromptsShowCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Print the file of a prompt endpoint", Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(_ *cobra.Command, args []string) error {
			return a.withPrompts(func(s *daemon.State, set *prompt.Set) error {
				e, err := findPrompt(set, args[0])
				if err != nil {
					return err
				}
				if a.io.JSON {
					return a.io.WriteJSON(struct {
						promptRow
						File string `json:"file"`
					}{newPromptRow(e, s.Config.PromptModels), string(e.Text)})
				}
				a.io.Stdout().Print(strings.TrimSuffix(string(e.Text), "\n"))
				return nil
			})
		},
	}
}

func newPromptsCheckCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "check", Short: "Check the files of prompt endpoints in the global volume", Args: usageArgs(cobra.NoArgs),
		Long: "Reads every file below prompts in the volume dreamcore-global and reports each error\n" +
			"with its field and line. The exit code is 1 if a file has an error.",
		RunE: func(*cobra.Command, []string) error {
			return a.withPrompts(func(_ *daemon.State, set *prompt.Set) error { return checkPrompts(a, set) })
		},
	}
}

func checkPrompts(a *app, set *prompt.Set) error {
	names, _ := set.Names()
	problems := set.Problems()
	if a.io.JSON {
		if err := a.io.WriteJSON(map[string]any{"ok": len(problems) == 0, "prompts": len(names), "problems": problemRows(set)}); err != nil {
			return err
		}
	} else {
		p := a.io.Stdout()
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
	}
	if len(problems) > 0 {
		return exitCode(exitFailed)
	}
	return nil
}

func newPromptsRunCmd(a *app) *cobra.Command {
	c := &cobra.Command{
		Use: "run NAME [FIELD=VALUE…]", Short: "Call a prompt endpoint and print its answer", Args: usageArgs(cobra.MinimumNArgs(1)),
		Long: "Makes a real call, through the configured upstream or a model script, and charges it\n" +
			"like a request to the service. Fields of the types string and any are text, others\n" +
			"JSON. The exit code is 1 if the answer is not the model's.",
		Example: "  dreamcore prompts run detect_intent message=\"make it faster\"\n" +
			"  dreamcore prompts run chat_haiku --model-script demo message=\"how do I play?\" raw_output=true",
		RunE: func(c *cobra.Command, args []string) error { return runPrompt(c.Context(), a, args[0], args[1:]) },
	}
	a.addSettings(c, "model_script", "language")
	return c
}

func runPrompt(ctx context.Context, a *app, name string, fields []string) error {
	return a.withPrompts(func(s *daemon.State, set *prompt.Set) (err error) {
		if s.Config.ModelScript == "" {
			if err := s.CheckModel(); err != nil {
				return err
			}
		}
		m, err := daemon.OpenModel(s, a.logger("error"))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, m.Close()) }()
		service, err := m.Prompts()
		if err != nil {
			return err
		}
		e, err := findPrompt(set, name)
		if err != nil {
			return err
		}
		body, err := e.Body(fields)
		if err != nil {
			return err
		}
		began := time.Now()
		result, err := service.Answer(ctx, e.Name, body, dreamcore.Language(s.Config.Language))
		if err != nil {
			return err
		}
		return showPrompt(a, e.Name, service.ModelOf(e), result, time.Since(began))
	})
}

func showPrompt(a *app, name, model string, result prompt.Result, took time.Duration) error {
	cause := ""
	if result.Cause != nil {
		cause = a.redactor.Redact(result.Cause.Error())
	}
	answer := a.redactor.Redact(result.Said)
	if a.io.JSON {
		if err := a.io.WriteJSON(map[string]any{
			"endpoint": name, "model": model, "status": result.Status, "answer": result.Body, "seconds": took.Seconds(), "error": cause, "said": answer,
		}); err != nil {
			return err
		}
	} else {
		var body strings.Builder
		enc := json.NewEncoder(&body)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(result.Body); err != nil {
			return err
		}
		a.io.Stdout().Print(strings.TrimSuffix(body.String(), "\n"))
	}
	if result.Cause == nil {
		if !a.io.JSON {
			a.io.Stderr().Success(fmt.Sprintf("%s: answered by %s in %s", name, model, term.Duration(took)))
		}
		return nil
	}
	if !a.io.JSON {
		a.io.Stderr().Failure(fmt.Sprintf("%s: status %d, not answered by the model", name, result.Status), cause)
		if answer != "" {
			a.io.Stderr().Hint("the model said: " + term.Truncate(term.Clean(answer), 500))
		}
	}
	return exitCode(exitFailed)
}

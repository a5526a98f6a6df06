package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/operate/show"
	"github.com/notef-neighbor/dreamcore/pkg/work/prompt"
)

func newPromptsCmd(a *app) *cobra.Command {
	return a.group("prompts",
		a.promptsCommand("list", func(_ context.Context, s *daemon.State, set *prompt.Set, _ []string) error {
			return show.Prompts(a.io, set, s.Config.PromptModels)
		}),
		a.promptsCommand("show", func(_ context.Context, s *daemon.State, set *prompt.Set, args []string) error {
			e, err := findPrompt(set, args[0])
			if err != nil {
				return err
			}
			return show.Prompt(a.io, e, s.Config.PromptModels)
		}),
		a.promptsCommand("check", func(_ context.Context, _ *daemon.State, set *prompt.Set, _ []string) error {
			err := show.PromptProblems(a.io, set)
			if err == nil && len(set.Problems()) > 0 {
				return exitCode(exitFailed)
			}
			return err
		}),
		newPromptsRunCmd(a))
}

// promptsCommand returns a command on the prompt endpoints of the state directory.
func (a *app) promptsCommand(name string, run func(ctx context.Context, s *daemon.State, set *prompt.Set, args []string) error) *cobra.Command {
	return a.command("prompts "+name, func(ctx context.Context, args []string) error {
		return a.withState(func(s *daemon.State) error {
			set, err := s.OpenPrompts(nil)
			if err != nil {
				return err
			}
			return run(ctx, s, set, args)
		})
	})
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

func newPromptsRunCmd(a *app) *cobra.Command {
	c := a.promptsCommand("run", func(ctx context.Context, s *daemon.State, set *prompt.Set, args []string) (err error) {
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
		service, err := m.Prompts(nil)
		if err != nil {
			return err
		}
		e, err := findPrompt(set, args[0])
		if err != nil {
			return err
		}
		body, err := e.Body(args[1:])
		if err != nil {
			return err
		}
		began := time.Now()
		result, err := service.Answer(ctx, e.Name, body, dreamcore.Language(s.Config.Language))
		if err != nil {
			return err
		}
		err = show.Answer(a.io, e.Name, service.ModelOf(e), result, time.Since(began), a.redactor.Redact)
		if err == nil && result.Cause != nil {
			return exitCode(exitFailed)
		}
		return err
	})
	a.addSettings(c, "model_script", "language")
	return c
}

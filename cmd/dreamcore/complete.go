package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/api/control"
	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/operate/commandline"
	"github.com/notef-neighbor/dreamcore/pkg/operate/gate"
	"github.com/notef-neighbor/dreamcore/pkg/store/image"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// addCompletions gives the commands below root their words.
func (a *app) addCompletions(root *cobra.Command) {
	prompts, sandboxes, secrets := commandline.Words(a.promptWords), commandline.Words(a.sandboxWords), commandline.Words(a.secretWords)
	volumes, users := commandline.Words(a.volumeWords).First(), commandline.Words(a.userWords)
	flags := map[string]commandline.Words{"image": a.imageWords, "user": users}
	for _, s := range config.Settings() {
		if s.Flag != "" && len(s.Words) > 0 {
			flags[s.Flag] = commandline.Always(func() []cobra.Completion { return s.Words })
		}
	}
	commandline.AddCompletions(root, map[string]commandline.Words{
		"dreamcore config show": commandline.Always(settingWords), "dreamcore gate": commandline.Always(gateWords),
		"dreamcore prompts show": prompts.First(), "dreamcore prompts run": prompts.First(),
		"dreamcore sandbox exec": sandboxes.First(), "dreamcore sandbox logs": sandboxes.First(), "dreamcore sandbox stop": sandboxes,
		"dreamcore secret show": secrets, "dreamcore secret delete": secrets.First(),
		"dreamcore users show": users.First(), "dreamcore users delete": users.First(),
		"dreamcore users block": users.First(), "dreamcore users unblock": users.First(),
		"dreamcore volume list": volumes, "dreamcore volume get": volumes, "dreamcore volume put": volumes, "dreamcore volume delete": volumes,
	}, flags)
}

func settingWords() (found []cobra.Completion) {
	for _, s := range config.Settings() {
		found = append(found, s.Key)
	}
	return found
}

func gateWords() (found []cobra.Completion) {
	for _, g := range gate.All() {
		found = append(found, cobra.CompletionWithDesc(g.Name, g.Passes))
	}
	return found
}

// hasState reports whether there is a state directory that the command may read: to
// open another one would make directories in it, also for a command that creates one.
func (a *app) hasState(c *cobra.Command) error {
	cfg, err := a.config()
	if err != nil {
		return err
	}
	return daemon.CheckState(cfg.State, commandline.UseOf(c).Needs...)
}

// local calls list with the state directory, if there is one.
func (a *app) local(c *cobra.Command, list func(s *daemon.State) error) error {
	if err := a.hasState(c); err != nil {
		return err
	}
	return a.withState(list)
}

// projectWords completes the id of a project; further arguments may be files.
func (a *app) projectWords(c *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	found, err := ids(a, c, func(accounts *daemon.Accounts) ([]dreamcore.ProjectID, error) {
		return accounts.ProjectIDs(c.Context(), prefix, commandline.MaxCompletions)
	})
	if err != nil {
		cobra.CompDebugln(err.Error(), false) // a completion has no place for an error
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}

// userWords are the ids of users, also for a flag, whatever the arguments are.
func (a *app) userWords(c *cobra.Command, _ []string) ([]cobra.Completion, error) {
	return ids(a, c, func(accounts *daemon.Accounts) ([]dreamcore.UserID, error) { return accounts.UserIDs(c.Context()) })
}

// ids returns ids of users or projects, unless the command works on another service,
// whose projects are not those of the state directory.
func ids[ID ~string](a *app, c *cobra.Command, list func(accounts *daemon.Accounts) ([]ID, error)) (found []cobra.Completion, err error) {
	if a.elsewhere(c) {
		return nil, nil
	}
	err = a.local(c, func(s *daemon.State) error {
		return a.withAccounts(c.Context(), s, false, func(accounts *daemon.Accounts) error {
			all, err := list(accounts)
			for _, id := range all {
				found = append(found, string(id))
			}
			return err
		})
	})
	return found, err
}

// secretWords are the names of secrets, then the keys of one. No value is read for
// the names.
func (a *app) secretWords(c *cobra.Command, before []string) (found []cobra.Completion, err error) {
	if len(before) > 1 {
		return nil, nil
	}
	store, err := a.secrets(false)
	if err != nil {
		return nil, err
	}
	all, err := store.List()
	for _, s := range all {
		switch {
		case len(before) == 0:
			found = append(found, cobra.CompletionWithDesc(s.Name, strings.Join(s.Keys, ", ")))
		case s.Name == before[0]:
			found = append(found, s.Keys...)
		}
	}
	return found, err
}

func (a *app) promptWords(c *cobra.Command, _ []string) (found []cobra.Completion, err error) {
	err = a.local(c, func(s *daemon.State) error {
		set, err := s.OpenPrompts(nil)
		if err != nil {
			return err
		}
		names, _ := set.Names()
		for _, name := range names {
			found = append(found, cobra.CompletionWithDesc(name, set.Get(name).Description))
		}
		return nil
	})
	return found, err
}

func (a *app) volumeWords(c *cobra.Command, _ []string) (found []cobra.Completion, err error) {
	err = a.local(c, func(s *daemon.State) error {
		all, err := s.Volumes.List()
		for _, v := range all {
			found = append(found, v.Name)
		}
		return err
	})
	return found, err
}

func (a *app) imageWords(c *cobra.Command, _ []string) (found []cobra.Completion, err error) {
	err = a.local(c, func(s *daemon.State) error {
		return a.withImages(s, func(images *image.Store) error {
			all, err := images.List()
			for _, img := range all {
				found = append(found, img.References...)
			}
			return err
		})
	})
	return found, err
}

// sandboxWords are the sandboxes of the service that is running.
func (a *app) sandboxWords(c *cobra.Command, _ []string) (found []cobra.Completion, err error) {
	err = a.withService(func(service *control.Client) error {
		all, err := service.List(c.Context())
		for _, s := range all {
			found = append(found, cobra.CompletionWithDesc(s.Name, term.Clean(string(s.State))))
		}
		return err
	})
	return found, err
}

package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/operate/show"
)

func newConfigCmd(a *app) *cobra.Command {
	return a.group("config", newConfigCheckCmd(a), newConfigShowCmd(a))
}

func newConfigCheckCmd(a *app) *cobra.Command {
	return a.command("config check", func(context.Context, []string) error {
		cfg, err := a.config()
		if err != nil {
			return err
		}
		if err := daemon.CheckSettings(cfg); err != nil {
			return err
		}
		return a.done(map[string]any{"valid": true, "state": cfg.State, "file": a.configFile(cfg)}, "The settings are valid", a.configFile(cfg), "state directory "+cfg.State)
	})
}

func newConfigShowCmd(a *app) *cobra.Command {
	return a.command("config show", func(_ context.Context, names []string) error {
		sources, err := a.sources()
		if err != nil {
			return err
		}
		all, err := config.Explain(sources, names...)
		if err != nil {
			return err
		}
		return show.List[config.Effective]{
			Key: "settings", Columns: show.Columns("SETTING", "~VALUE", "SOURCE"),
			Cells: func(e config.Effective) []string { return []string{e.Key, fmt.Sprint(e.Value), e.Source} },
		}.Show(a.io, all, nil)
	})
}

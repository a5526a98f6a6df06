package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/daemon"
)

func newRouteCmd(a *app) *cobra.Command {
	c := a.command("route", func(ctx context.Context, _ []string) error { return runRoute(ctx, a) })
	a.addSettings(c, "listen", "cells", "cell_addresses", "kubernetes_api", "kubernetes_account", "hold", "language", "log_level")
	return c
}

func runRoute(ctx context.Context, a *app) error {
	guard, err := a.startGuard()
	if err != nil {
		return err
	}
	defer guard.Close()
	cfg, err := a.config()
	if err != nil {
		return err
	}
	r, err := daemon.StartRouter(ctx, cfg, daemon.RouterOptions{
		Version: version, Logger: a.loggerIn(cfg.LogLevel, cfg.LogFormat), Env: a.env, Redactor: a.redactor, Inherited: a.inherited,
	})
	if err != nil {
		return err
	}
	if a.io.JSON {
		err = a.io.WriteJSON(map[string]string{"url": r.URL(), "cells": r.Cells()})
	} else {
		a.io.Stderr().Success("Serving on "+r.URL(), "cells: "+r.Cells())
	}
	if err != nil {
		return errors.Join(err, r.Close())
	}
	return a.serveUntil(ctx, r.Failed(), "open requests end, new ones go to other routers", r.Close)
}

package main

import (
	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/operate/commandline"
)

// elsewhere reports whether a command works on another service.
func (a *app) elsewhere(c *cobra.Command) bool {
	return c.Flags().Lookup("endpoint") != nil && (c.Flags().Changed("endpoint") || a.env.Endpoint != "")
}

// checkState makes sure that a command which only reads the state directory has
// one: an empty answer would look like a success where the name was mistyped.
func (a *app) checkState(c *cobra.Command) error {
	u := commandline.UseOf(c)
	a.looks = u.Access == commandline.Looks
	if !a.looks && u.Access != commandline.Reads || a.elsewhere(c) {
		return nil
	}
	cfg, err := a.config()
	if err != nil {
		return err
	}
	err = daemon.CheckState(cfg.State, u.Needs...)
	if err != nil && commandline.IsJobState(a.stateFlag) {
		return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "--state selects a directory", Hint: "jobs in a state: dreamcore jobs --in " + a.stateFlag, Err: err}
	}
	return err
}

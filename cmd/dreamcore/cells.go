package main

import (
	"cmp"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/operate/cells"
)

func newCellsCmd(a *app) *cobra.Command {
	return cells.Host{IO: a.io, Command: a.command, Group: a.group, Confirm: a.confirmed, YesFlag: yesFlag, Flags: func(c *cobra.Command) func() (cells.Settings, error) {
		var secret endpointOptions
		secret.addSecret(c)
		a.addSettings(c, "cell_addresses", "kubernetes_api", "kubernetes_account")
		return func() (s cells.Settings, err error) {
			cfg, err := a.config()
			if err != nil {
				return s, err
			}
			s = cells.Settings{API: cmp.Or(cfg.KubernetesAPI, a.env.KubernetesAPI), Account: cfg.KubernetesAccount, Service: cfg.CellsService, Addresses: cfg.CellAddresses, UserAgent: "dreamcore/" + version}
			s.Secret, err = secret.secret(a)
			a.redactor.Add(s.Secret)
			return s, err
		}
	}}.Commands()
}

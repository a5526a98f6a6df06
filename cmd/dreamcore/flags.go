package main

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
	"github.com/notef-neighbor/dreamcore/pkg/operate/commandline"
	"github.com/notef-neighbor/dreamcore/pkg/store/image"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// egressSettings open hosts to sandboxes. Together they replace the hosts of the
// configuration.
var egressSettings = []string{"allow_hosts", "allow_private_hosts", "inject"}

// addSettings adds flags that override settings to a command. Their names and texts
// are in the table of settings; flags of lists may be repeated.
func (a *app) addSettings(c *cobra.Command, keys ...string) {
	for _, key := range keys {
		if s := config.LookupSetting(key); slices.Contains(egressSettings, key) {
			c.Flags().StringArray(s.Flag, nil, s.FlagHelp)
		} else {
			c.Flags().String(s.Flag, "", s.FlagHelp)
		}
		if err := c.Flags().SetAnnotation(config.LookupSetting(key).Flag, commandline.SettingFlag, []string{key}); err != nil {
			panic(err) // the flag is defined above
		}
	}
	before := c.PreRunE
	c.PreRunE = func(c *cobra.Command, args []string) error {
		for _, key := range keys {
			if err := a.override(c, key, config.LookupSetting(key).Flag); err != nil {
				return err
			}
		}
		if before != nil {
			return before(c, args)
		}
		return nil
	}
}

// override applies a flag to its setting, if it was given.
func (a *app) override(c *cobra.Command, key, flag string) (err error) {
	if !c.Flags().Changed(flag) {
		return nil
	}
	if slices.Contains(egressSettings, key) {
		a.flags[key], err = c.Flags().GetStringArray(flag)
		return err
	}
	v, err := c.Flags().GetString(flag)
	if err != nil {
		return err
	}
	switch { // relative paths are those of the caller
	case v == "" || key == "model_script" && replay.IsDemo(v):
	case key == "rootfs" || key == "model_script" || key == "cells" || key == "cell_addresses" || key == "kubernetes_account":
		v, err = filepath.Abs(v)
	case key == "image":
		v, err = image.Absolute(v)
	}
	a.flags[key] = v
	return err
}

// showEgress names the hosts that sandboxes reach, if there are any.
func showEgress(p *term.Printer, c config.Config) {
	if hosts := slices.Concat(c.AllowHosts, c.AllowPrivateHosts); len(hosts) > 0 {
		p.Info("Sandboxes reach " + strings.Join(hosts, ", "))
	}
	if len(c.AllowPrivateHosts) > 0 {
		p.Warning("Private hosts are open to sandboxes: " + strings.Join(c.AllowPrivateHosts, ", "))
	}
}

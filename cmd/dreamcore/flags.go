package main

import (
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
	"github.com/notef-neighbor/dreamcore/pkg/store/image"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// setting is a flag that overrides a setting of the configuration. Its name and its
// help are in the table of settings.
type setting struct {
	key  string
	list bool                         // the flag may be repeated
	form func(string) (string, error) // converts the value of the flag; may be nil
}

func (s setting) flag() string { return config.LookupSetting(s.key).Flag }

var (
	modelScriptSetting = setting{key: "model_script", form: absoluteScript}
	listenSetting      = setting{key: "listen"}
	rootfsSetting      = setting{key: "rootfs", form: absolute}
	imageSetting       = setting{key: "image", form: absoluteImage}
	runtimeSetting     = setting{key: "runtime"}
	toolsSetting       = setting{key: "tools"}
	modelSetting       = setting{key: "model"}
	languageSetting    = setting{key: "language"}
	logLevelSetting    = setting{key: "log_level"}
)

// egressSettings open hosts to sandboxes. Together they replace the hosts of the
// configuration.
var egressSettings = []setting{
	{key: "allow_hosts", list: true}, {key: "allow_private_hosts", list: true}, {key: "inject", list: true},
}

// addSettings adds flags that override settings to a command.
func (a *app) addSettings(c *cobra.Command, settings ...setting) {
	for _, s := range settings {
		known := config.LookupSetting(s.key)
		if s.list {
			c.Flags().StringArray(known.Flag, nil, known.FlagHelp)
		} else {
			c.Flags().String(known.Flag, "", known.FlagHelp)
		}
	}
	before := c.PreRunE
	c.PreRunE = func(c *cobra.Command, args []string) error {
		for _, s := range settings {
			if err := a.override(c, s); err != nil {
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
func (a *app) override(c *cobra.Command, s setting) (err error) {
	if !c.Flags().Changed(s.flag()) {
		return nil
	}
	if s.list {
		a.flags[s.key], err = c.Flags().GetStringArray(s.flag())
		return err
	}
	v, err := c.Flags().GetString(s.flag())
	if err == nil && s.form != nil {
		v, err = s.form(v)
	}
	a.flags[s.key] = v
	return err
}

func absolute(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	return filepath.Abs(path)
}

func absoluteScript(name string) (string, error) {
	if name == replay.DemoName {
		return name, nil
	}
	return absolute(name)
}

func absoluteImage(ref string) (string, error) {
	if ref == "" {
		return "", nil
	}
	return image.Absolute(ref)
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

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

// setting is a flag that overrides a setting of the configuration.
type setting struct {
	flag, key, usage string
	list             bool                         // the flag may be repeated
	form             func(string) (string, error) // converts the value of the flag; may be nil
}

var (
	modelScriptSetting = setting{flag: "model-script", key: "model_script", form: absoluteScript, usage: "answer from a model script instead of the model API: a file, or \"demo\""}
	listenSetting      = setting{flag: "listen", key: "listen", usage: "address to listen on, HOST:PORT (DREAMCORE_LISTEN; default 127.0.0.1:8080)"}
	rootfsSetting      = setting{flag: "rootfs", key: "rootfs", form: absolute, usage: "root file system of sandboxes: a directory (default: this machine's programs)"}
	imageSetting       = setting{flag: "image", key: "image", form: absoluteImage, usage: "root file system of sandboxes from an image: NAME[:TAG][@sha256:…], oci-layout:DIR, docker-archive:FILE.tar or a directory"}
	runtimeSetting     = setting{flag: "runtime", key: "runtime", usage: "engine of sandboxes: gvisor, or runc, which shares the kernel of this machine (default gvisor)"}
	toolsSetting       = setting{flag: "tools", key: "tools", usage: "tools of the agent, separated by commas (default Read,Write,Edit,Glob,Grep,Bash)"}
	modelSetting       = setting{flag: "model", key: "model", usage: "model for the agent (default: the agent's own choice)"}
	languageSetting    = setting{flag: "language", key: "language", usage: "language of messages for players: en, ja"}
	logLevelSetting    = setting{flag: "log-level", key: "log_level", usage: "debug, info, warn or error"}
)

// egressSettings open hosts to sandboxes. Together they replace the hosts of the
// configuration.
var egressSettings = []setting{
	{flag: "allow-host", key: "allow_hosts", list: true, usage: "host that sandboxes reach: HOST[:PORT] or *.DOMAIN[:PORT]; may be repeated (default: none)"},
	{flag: "allow-private-host", key: "allow_private_hosts", list: true, usage: "the same for a host on a private network or this machine: HOST:PORT"},
	{flag: "inject", key: "inject", list: true, usage: "secret for the requests to an allowed host: HOST[:PORT]=SECRET[/KEY]:HEADER[:SCHEME]; may be repeated"},
}

// addSettings adds flags that override settings to a command.
func (a *app) addSettings(c *cobra.Command, settings ...setting) {
	for _, s := range settings {
		if s.list {
			c.Flags().StringArray(s.flag, nil, s.usage)
		} else {
			c.Flags().String(s.flag, "", s.usage)
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
	if !c.Flags().Changed(s.flag) {
		return nil
	}
	if s.list {
		a.flags[s.key], err = c.Flags().GetStringArray(s.flag)
		return err
	}
	v, err := c.Flags().GetString(s.flag)
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

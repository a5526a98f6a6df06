package main

import (
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
	"github.com/notef-neighbor/dreamcore/pkg/store/image"
)

// setting is a flag that overrides a setting of the configuration.
type setting struct {
	flag, key, usage string
	form             func(string) (string, error) // what the setting is made of the flag; nil: as it is
}

var (
	modelScriptSetting = setting{flag: "model-script", key: "model_script", form: absoluteScript, usage: "answer from a model script instead of the model API: a file, or \"demo\""}
	listenSetting      = setting{flag: "listen", key: "listen", usage: "address to listen on, HOST:PORT (DREAMCORE_LISTEN; default 127.0.0.1:8080)"}
	rootfsSetting      = setting{flag: "rootfs", key: "rootfs", form: absolute, usage: "root file system of sandboxes: a directory (default: this machine's programs)"}
	imageSetting       = setting{flag: "image", key: "image", form: absoluteImage, usage: "root file system of sandboxes from an image: NAME[:TAG][@sha256:…], oci-layout:DIR, docker-archive:FILE.tar or a directory"}
	runtimeSetting     = setting{flag: "runtime", key: "runtime", usage: "engine of sandboxes: gvisor, or runc, which shares the kernel of this machine (default gvisor)"}
	toolsSetting       = setting{flag: "tools", key: "tools", usage: "tools of the agent, by commas (default Read,Write,Edit,Glob,Grep,Bash)"}
	modelSetting       = setting{flag: "model", key: "model", usage: "model for the agent (default: the agent's own choice)"}
	languageSetting    = setting{flag: "language", key: "language", usage: "language of messages for players: en, ja"}
	logLevelSetting    = setting{flag: "log-level", key: "log_level", usage: "debug, info, warn or error"}
)

// addSettings gives a command flags that override settings.
func (a *app) addSettings(c *cobra.Command, settings ...setting) {
	values := make([]*string, len(settings))
	for i, s := range settings {
		values[i] = c.Flags().String(s.flag, "", s.usage)
	}
	before := c.PreRunE
	c.PreRunE = func(c *cobra.Command, args []string) error {
		var fault error
		c.Flags().Visit(func(f *pflag.Flag) {
			for i, s := range settings {
				if f.Name != s.flag {
					continue
				}
				v := *values[i]
				if s.form != nil {
					var err error
					if v, err = s.form(v); err != nil {
						fault = err
					}
				}
				a.flags[s.key] = v
			}
		})
		if fault == nil && before != nil {
			fault = before(c, args)
		}
		return fault
	}
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

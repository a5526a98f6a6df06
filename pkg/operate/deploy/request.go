package deploy

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/upstream"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/gvisor"
)

// DefaultState is the state directory of a service. That of a user is never
// used, even if the user runs the command.
const DefaultState = "/var/lib/" + dreamcore.AppName

// variablePrefix begins the environment variables that are settings.
const variablePrefix = "DREAMCORE_"

// Request is an installation as the operator asks for it, by flags and
// environment. Resolve completes it: in its Options, Exe, Settings, FreeIDs and
// Config are not set yet, and Root and KeyFile may be relative.
type Request struct {
	Options
	State      string         // may be relative; "" for DefaultState
	StateGiven bool           // State comes from a flag, which must not contradict the configuration
	Flags      map[string]any // settings that were given as flags, by key

	// Load reads a configuration file, overridden by environ and flags, and
	// returns its settings, with the defaults filled in. An invalid setting is
	// an error.
	Load func(file string, environ []string, flags map[string]any) (Settings, error)
}

// Resolve returns the options of the plan. The settings are those of an existing
// configuration, otherwise those of the flags and the environment.
func (r Request) Resolve() (Options, error) {
	o := r.Options
	var err error
	if o.Exe, err = os.Executable(); err == nil {
		o.Exe, err = filepath.EvalSymlinks(o.Exe)
	}
	if err != nil {
		return o, fmt.Errorf("find our own program: %w", err)
	}
	paths := []*string{&o.Root, &r.State}
	if o.KeyFile != "-" {
		paths = append(paths, &o.KeyFile)
	}
	for _, path := range paths {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return o, err
		}
	}
	r.State = cmp.Or(r.State, DefaultState)
	file, adopt, err := existingConfig(o.Root, r.State)
	if err != nil {
		return o, err
	}
	if file != "" {
		return o, r.existingSettings(&o, file, adopt)
	}
	return o, r.newSettings(&o)
}

// existingSettings takes the settings from an existing configuration. Flags
// that contradict it are errors, because they would have no effect.
func (r Request) existingSettings(o *Options, file string, adopt bool) (err error) {
	var flags map[string]any
	if adopt {
		flags = map[string]any{"state": r.State}
		if o.Config, err = os.ReadFile(file); err != nil {
			return fileFault("read", file, err)
		}
	}
	s, err := r.Load(file, nil, flags)
	if err != nil {
		return err
	}
	if adopt {
		// The service reads the file from another directory, so the file has to
		// name the state directory.
		if plain, err := r.Load(file, nil, nil); err != nil || plain.State != r.State {
			o.Config = append(o.Config, fmt.Sprintf("\nstate: %q\n", r.State)...)
		}
	}
	have := map[string]string{"listen": s.Listen, "model_script": s.ModelScript, "rootfs": s.Rootfs, "image": s.Image, "runtime": s.Runtime, "state": s.State}
	want := map[string]any{}
	maps.Copy(want, r.Flags)
	if r.StateGiven {
		want["state"] = r.State
	}
	for _, key := range slices.Sorted(maps.Keys(want)) {
		if have[key] != want[key] {
			return invalid(ReasonSettings, "change it in the file and omit the flag",
				"the configuration %s says %s: %q, so it cannot be %q as well", file, key, have[key], want[key])
		}
	}
	o.Settings = s
	return nil
}

// newSettings takes the settings from flags and environment, for a new
// configuration.
func (r Request) newSettings(o *Options) error {
	flags := map[string]any{}
	maps.Copy(flags, r.Flags)
	flags["state"] = r.State
	s, err := r.Load(os.DevNull, r.Environ, flags)
	if err != nil {
		return err
	}
	// The file does not need to repeat defaults.
	if s.Upstream == upstream.DefaultAddress {
		s.Upstream = ""
	}
	if s.Runtime == gvisor.Name {
		s.Runtime = ""
	}
	s.More = map[string]string{}
	idsGiven := false
	for _, kv := range r.Environ {
		name, value, _ := strings.Cut(kv, "=")
		key, ours := strings.CutPrefix(name, variablePrefix)
		key = strings.ToLower(key)
		if !ours || value == "" || strings.HasPrefix(key, "test_") {
			continue
		}
		switch key {
		case "state", "listen", "upstream", "model_script", "rootfs", "image", "runtime", "config":
		case "sandbox_uid", "sandbox_gid":
			idsGiven = true
		default:
			s.More[key] = value // Load has checked it
		}
	}
	_, err = os.Lstat(filepath.Join(o.Root, r.State, volumesDir))
	o.FreeIDs = err != nil && !idsGiven
	o.Settings = s
	return nil
}

package main

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/work/probe"
)

// checksDir is where the users of deep checks live, for as long as one takes.
const checksDir = "checks"

// deepChecks are those of this machine: users as they are here, in a place of
// their own.
func (m *machine) deepChecks() *probe.Deep {
	return &probe.Deep{
		Dir:     m.path(checksDir),
		Volumes: volume.Options{UID: m.cfg.UID, GID: m.cfg.GID, DiskBytes: int64(m.cfg.DiskMiB) << 20, Logger: m.log},
		Gateway: m.gateway,
		Secrets: m.state.guarded,
	}
}

// guarded are the secrets that no sandbox may see, by the names that the gate
// knows. One that is not set, or cannot be read, has no value.
func (s state) guarded() map[string]string {
	all := map[string]string{"the API key": "", "the internal secret": "", "the identity": s.identity()}
	store, err := s.secrets()
	if err != nil {
		return all
	}
	all["the API key"], _ = store.Value(secret.AnthropicSecret, secret.AnthropicKey)
	if values, err := store.InternalValues(); err == nil && len(values) > 0 {
		all["the internal secret"] = values[0]
	}
	infos, _ := store.List()
	for _, i := range infos { // credentials of upstreams and of hosts, whatever is sealed
		values, _ := store.Get(i.Name)
		for key, value := range values {
			if len(value) >= minGuarded {
				all["the sealed secret "+i.Name+"/"+key] = value
			}
		}
	}
	return all
}

// minGuarded is how long a value must be to be told from other text.
const minGuarded = 12

// identity is the key that opens the sealed secrets.
func (s state) identity() string {
	if s.env.Identity != "" {
		return s.env.Identity
	}
	files, _ := filepath.Glob(filepath.Join(s.path(secretsDir), "identity*"))
	for _, name := range append([]string{s.identityFile()}, files...) {
		raw, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(raw)) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "AGE-SECRET-KEY-") {
				return line
			}
		}
	}
	return ""
}

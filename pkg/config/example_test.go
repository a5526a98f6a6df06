package config_test

import (
	"fmt"

	"github.com/notef-neighbor/dreamcore/pkg/config"
)

// The environment takes precedence over defaults, and flags over both.
func ExampleLoad() {
	c, err := config.Load(config.Sources{
		Environ: []string{"DREAMCORE_STATE=/srv/dreamcore", "DREAMCORE_TIMEOUT=10m"},
		Flags:   map[string]any{"listen": "0.0.0.0:8080"},
	})
	fmt.Println(c.State, c.Timeout, c.Listen, c.MaxSandboxes, err)

	_, err = config.Load(config.Sources{Environ: []string{"DREAMCORE_STATE=/srv/dreamcore", "DREAMCORE_TIMEOUT=10"}})
	fmt.Println(err)
	// Output:
	// /srv/dreamcore 10m0s 0.0.0.0:8080 32 <nil>
	// timeout: "10" is not a duration: write it with its unit, like 90s (DREAMCORE_TIMEOUT in the environment)
}

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/config"
)

// systemctl reload asks this command first: what a reload refuses without a secret,
// it must refuse too.
func TestConfigCheckFindsWhatAReloadRefuses(t *testing.T) {
	c := newCLI(t)
	script := filepath.Join(t.TempDir(), "script.json")
	if err := os.WriteFile(script, []byte(`{"conversations":[[{"text":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(c.state, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ file, says string }{
		{"model_script: " + script, "script"},
		{"model_script: " + script + ".missing", "missing"},
		{"upstreams: [{name: own, kind: anthropic, base_url: https://model.example.com, api_key: none, ca_file: /missing/ca.pem}]", "upstream own"},
		{"timeout: 7m", ""},
		{"model_script: demo", ""},
	} {
		if err := os.WriteFile(filepath.Join(c.state, config.FileName), []byte(tt.file+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, err := c.run("config", "check")
		if (err == nil) != (tt.says == "") || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", tt.file, err)
		}
	}
}

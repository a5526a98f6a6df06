package main

import (
	"reflect"
	"testing"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/config"
)

func TestFlagsOverrideSettings(t *testing.T) {
	for _, tt := range []struct {
		args  []string
		want  map[string]any
		fails bool
	}{
		{nil, map[string]any{}, false},
		{[]string{"--listen", ":1", "--allow-host", "a.test", "--allow-host", "b.test"}, map[string]any{"listen": ":1", "allow_hosts": []string{"a.test", "b.test"}}, false},
		{[]string{"--model-script", "demo", "--image", ""}, map[string]any{"model_script": "demo", "image": ""}, false},
		{[]string{"--rootfs", "/srv/../root"}, map[string]any{"rootfs": "/root"}, false},
		{[]string{"--image", "oci-layout:"}, nil, true},
	} {
		a := &app{flags: map[string]any{}}
		ran := false
		c := &cobra.Command{Use: "test", SilenceErrors: true, SilenceUsage: true, RunE: func(*cobra.Command, []string) error { ran = true; return nil }}
		a.addSettings(c, "listen", "model_script", "image", "rootfs")
		a.addSettings(c, egressSettings...)
		c.SetArgs(tt.args)
		err := c.ExecuteContext(t.Context())
		if (err != nil) != tt.fails || ran == tt.fails {
			t.Errorf("%q: %v, ran: %v", tt.args, err, ran)
		}
		if !tt.fails && !reflect.DeepEqual(a.flags, tt.want) {
			t.Errorf("%q: %v", tt.args, a.flags)
		}
	}
}

func TestConfigurationFileIsFlagThenEnvironmentThenState(t *testing.T) {
	for _, tt := range []struct{ flag, environment, want string }{
		{"", "", "/state/config.yaml"}, {"", "/env.yaml", "/env.yaml"}, {"/flag.yaml", "/env.yaml", "/flag.yaml"},
	} {
		a := &app{configFlag: tt.flag, env: config.Environment{ConfigFile: tt.environment}}
		if got := a.configFile(config.Config{State: "/state"}); got != tt.want {
			t.Errorf("%+v: %s", tt, got)
		}
	}
}

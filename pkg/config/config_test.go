package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/upstream"
	"github.com/notef-neighbor/dreamcore/pkg/work/webhook"
)

// load loads from a file with this text, the environment and flags.
func load(t testing.TB, file string, environ []string, flags map[string]any) (Config, error) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "some.yaml")
	if err := os.WriteFile(name, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(Sources{File: name, Environ: append([]string{"HOME=/home/someone"}, environ...), Flags: flags})
}

// everySetting has a text value for each setting that differs from its default.
var everySetting = map[string]struct {
	text string
	want any
}{
	"commit_message": {"AI {{.Prompt}}", "AI {{.Prompt}}"},
	"state":          {"/srv/dreamcore", "/srv/dreamcore"}, "listen": {":9000", ":9000"}, "runtime": {"gvisor", "gvisor"}, "identity_file": {"/srv/identity", "/srv/identity"}, "secrets_dir": {"/run/secrets", "/run/secrets"},
	"rootfs": {"/srv/root", "/srv/root"}, "image": {"debian:12", "debian:12"}, "sandbox_uid": {"20000", 20000}, "sandbox_gid": {"20001", 20001},
	"memory_mib": {"512", 512}, "cpus": {"1.5", 1.5}, "processes": {"64", 64}, "allow_unlimited": {"true", true},
	"disk_mib": {"512", 512}, "min_free_disk_mib": {"100", 100}, "project_mib": {"64", 64}, "project_files": {"100", 100}, "max_sandboxes": {"50", 50}, "sandbox_idle": {"5m", 5 * time.Minute}, "sandbox_max_age": {"1h", time.Hour}, "spare_sandboxes": {"3", 3}, "standby_sandboxes": {"2", 2}, "warm_agents": {"3", 3}, "min_free_mib": {"0", 0},
	"tools": {"Read, Write", []string{"Read", "Write"}}, "model": {"claude-x", "claude-x"}, "max_turns": {"40", 40},
	"timeout": {"90s", 90 * time.Second}, "output_lines": {"7", 7}, "max_generations": {"2", 2}, "max_waiting": {"3", 3},
	"max_waiting_per_user": {"0", 0}, "on_disconnect": {"continue", "continue"}, "disconnect_grace": {"0s", time.Duration(0)}, "attempts": {"3", 3},
	"grace": {"1m30s", 90 * time.Second}, "journal_days": {"30", 30}, "jobs_mib": {"10", 10}, "history_mib": {"20", 20}, "history_user_mib": {"30", 30}, "memory_limit_mib": {"700", 700}, "upstream": {"http://127.0.0.1:1", "http://127.0.0.1:1"},
	"upstreams":  {`[{"name":"local","kind":"anthropic","api_key":"none"}]`, []upstream.Entry{{Name: "local", Kind: "anthropic", APIKey: "none"}}},
	"webhooks":   {`[{"url":"https://a.example.com/x","secret":"a","events":["job.failed"]}]`, []webhook.Entry{{URL: "https://a.example.com/x", Secret: "a", Events: []string{"job.failed"}}}},
	"log_format": {"json", "json"}, "metrics_listen": {"127.0.0.1:9100", "127.0.0.1:9100"}, "trusted_proxies": {"10.0.0.0/8, ::1", []string{"10.0.0.0/8", "::1"}},
	"sandbox_env": {`{"A":"b","lower_1":"with = and\nlines"}`, map[string]string{"A": "b", "lower_1": "with = and\nlines"}},
	"allow_hosts": {"api.example.com, *.example.org:8443", []string{"api.example.com", "*.example.org:8443"}}, "allow_private_hosts": {"db.internal:8443", []string{"db.internal:8443"}},
	"inject": {"api.example.com=openai:Authorization:Bearer", []string{"api.example.com=openai:Authorization:Bearer"}}, "egress_mib": {"10", 10},
	"server_tools": {"true", true}, "share_spending": {"true", true}, "model_script": {"demo", "demo"}, "model_idle": {"5s", 5 * time.Second}, "language": {"ja", "ja"}, "log_level": {"debug", "debug"},
	"budget_job_usd": {"1.5", 1.5}, "budget_job_tokens": {"1", 1}, "budget_user_day_usd": {"2.5", 2.5}, "budget_user_day_tokens": {"2", 2},
	"budget_user_month_usd": {"3.5", 3.5}, "budget_user_month_tokens": {"3", 3}, "budget_day_usd": {"4.5", 4.5}, "budget_month_usd": {"5.5", 5.5},
	"user_requests": {"9", 9}, "prices": {"m in=1 out=2, n in=3 out=4", []string{"m in=1 out=2", "n in=3 out=4"}}, "usage_days": {"40", 40}, "audit_mib": {"64", 64},
	"prompt_models": {"haiku=small, sonnet=large,mine=m-1", map[string]string{"haiku": "small", "sonnet": "large", "mine": "m-1"}}, "max_prompts": {"7", 7},
	"preview_domain": {"games.example.com", "games.example.com"}, "preview_listen": {"127.0.0.1:9001", "127.0.0.1:9001"},
	"preview_hosts":           {"https://cdn.example.com, *.example.net", []string{"https://cdn.example.com", "*.example.net"}},
	"preview_frame_ancestors": {"https://app.example.com", []string{"https://app.example.com"}},
	"acceptance":              {"fail", "fail"}, "acceptance_repairs": {"0", 0}, "acceptance_limit": {"30s", 30 * time.Second}, "acceptance_on_apply": {"true", true},
	"cells": {"/srv/cells", "/srv/cells"}, "cells_service": {"rooms", "rooms"}, "cell_addresses": {"/srv/addresses", "/srv/addresses"}, "kubernetes_api": {"https://10.0.0.1:6443", "https://10.0.0.1:6443"}, "kubernetes_account": {"/srv/account", "/srv/account"},
	"hold": {"5s", 5 * time.Second}, "held_requests": {"7", 7}, "preview_key_file": {"/srv/key", "/srv/key"},
	"cors_origins": {"https://app.example.com, http://localhost:3000,http://[::1]:3000", []string{"https://app.example.com", "http://localhost:3000", "http://[::1]:3000"}},
}

// byKey returns a configuration as a map of settings.
func byKey(c Config) map[string]any {
	m, v := map[string]any{}, reflect.ValueOf(c)
	for i := range v.NumField() {
		f := v.Field(i)
		if t := reflect.TypeFor[map[string]string](); f.Type().ConvertibleTo(t) {
			f = f.Convert(t)
		}
		m[v.Type().Field(i).Tag.Get(tag)] = f.Interface()
	}
	return m
}

func TestEverySettingCanComeFromEverySource(t *testing.T) {
	if got, want := slices.Sorted(maps.Keys(everySetting)), slices.Sorted(maps.Keys(new(Config).fields())); !slices.Equal(got, want) {
		t.Fatalf("the test has the settings %v, there are %v", got, want)
	}
	// A root is either a directory or an image, and the model at one address or
	// at those of a list, so one of each is left out at a time.
	for _, without := range [][]string{{"rootfs", "upstream"}, {"image", "upstreams"}} {
		var file strings.Builder
		var environ []string
		flags := map[string]any{}
		for key, v := range everySetting {
			if slices.Contains(without, key) {
				continue
			}
			text := v.text
			if key == "listen" {
				text = `":9000"`
			}
			fmt.Fprintf(&file, "%s: %s\n", key, text)
			environ = append(environ, prefix+strings.ToUpper(key)+"="+v.text)
			flags[key] = v.text
		}
		for source, load := range map[string]func() (Config, error){
			"file":        func() (Config, error) { return load(t, file.String(), nil, nil) },
			"environment": func() (Config, error) { return load(t, "", environ, nil) },
			"flags":       func() (Config, error) { return load(t, "", nil, flags) },
		} {
			c, err := load()
			if err != nil {
				t.Errorf("%s: %v", source, err)
				continue
			}
			for key, got := range byKey(c) {
				if !slices.Contains(without, key) && !reflect.DeepEqual(got, everySetting[key].want) {
					t.Errorf("%s from the %s: %v, want %v", key, source, got, everySetting[key].want)
				}
			}
		}
	}
}

func TestRootfsAndImageExcludeEachOther(t *testing.T) {
	_, err := load(t, "rootfs: /srv/root\n", []string{"DREAMCORE_IMAGE=debian:12"}, nil)
	if dreamcore.CodeOf(err) != dreamcore.CodeInvalid || !strings.Contains(err.Error(), "image and rootfs") || dreamcore.HintOf(err) == "" {
		t.Errorf("%v", err)
	}
	// An empty flag takes the other one back.
	c, err := load(t, "rootfs: /srv/root\n", nil, map[string]any{"image": "oci-layout:/srv/layout", "rootfs": ""})
	if err != nil || c.Image != "oci-layout:/srv/layout" || c.Rootfs != "" {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestTheLaterSourceWins(t *testing.T) {
	const file = "model: of-the-file\nlanguage: ja\nmax_turns: 5\n"
	environ := []string{"DREAMCORE_MODEL=of-the-environment", "DREAMCORE_MAX_TURNS=6"}
	c, err := load(t, file, environ, map[string]any{"model": "of-the-flag"})
	if err != nil || c.Model != "of-the-flag" || c.MaxTurns != 6 || c.Language != "ja" || c.LogLevel != "info" {
		t.Errorf("%+v, %v", c, err)
	}
	// An empty variable counts as unset; an empty flag is a value.
	c, err = load(t, file, []string{"DREAMCORE_MODEL="}, nil)
	if err != nil || c.Model != "of-the-file" {
		t.Errorf("an empty variable: %q, %v", c.Model, err)
	}
	c, err = load(t, file, environ, map[string]any{"model": ""})
	if err != nil || c.Model != "" {
		t.Errorf("an empty flag: %q, %v", c.Model, err)
	}
}

func TestUpstreamFromAnthropicBaseURL(t *testing.T) {
	for _, tt := range []struct {
		environ []string
		want    string
	}{
		{nil, DefaultUpstream},
		{[]string{"ANTHROPIC_BASE_URL=https://a.example"}, "https://a.example"},
		{[]string{"ANTHROPIC_BASE_URL="}, DefaultUpstream},
		{[]string{"ANTHROPIC_BASE_URL=https://a.example", "DREAMCORE_UPSTREAM=https://b.example"}, "https://b.example"},
	} {
		if c, err := load(t, "", tt.environ, nil); err != nil || c.Upstream != tt.want {
			t.Errorf("%v: %q, %v", tt.environ, c.Upstream, err)
		}
	}
}

func TestSettingsWithSpecialForms(t *testing.T) {
	for _, tt := range []struct {
		file string
		get  func(Config) any
		want any
	}{
		{"memory_mib: \"512\"\n", func(c Config) any { return c.MemoryMiB }, 512},
		{"cpus: 2\n", func(c Config) any { return c.CPUs }, 2.0},
		{"tools:\n  - Read\n  - Bash\n", func(c Config) any { return strings.Join(c.Tools, "|") }, "Read|Bash"},
		{"tools: Read,  Bash ,\n", func(c Config) any { return strings.Join(c.Tools, "|") }, "Read|Bash"},
		{"tools: [\"mcp__x__y\"]\n", func(c Config) any { return strings.Join(c.Tools, "|") }, "mcp__x__y"},
		{"grace: 0s\n", func(c Config) any { return c.Grace }, time.Duration(0)},
		{"listen: '[::1]:80'\n", func(c Config) any { return c.Listen }, "[::1]:80"},
		{"# nothing\n", func(c Config) any { return c.LogLevel }, "info"},
		{"%YAML 1.1\n---\n# one document\nlog_level: warn\n...\n# the end\n", func(c Config) any { return c.LogLevel }, "warn"},
	} {
		if c, err := load(t, tt.file, nil, nil); err != nil || tt.get(c) != tt.want {
			t.Errorf("%q: %v, %v", tt.file, tt.get(c), err)
		}
	}
}

func TestFaultsNameSettingAndSource(t *testing.T) {
	for _, tt := range []struct {
		name    string
		file    string
		environ []string
		flags   map[string]any
		says    []string
		hint    string
	}{
		{name: "unknown in the file", file: "timeuot: 5m\n", says: []string{`"timeuot"`, "some.yaml"}, hint: "timeout"},
		{name: "unknown in the environment", environ: []string{"DREAMCORE_TIMEUOT=5m"}, says: []string{"DREAMCORE_TIMEUOT"}, hint: "timeout"},
		{name: "another case in the environment", environ: []string{"DREAMCORE_Timeout=5m"}, says: []string{"DREAMCORE_Timeout"}, hint: "timeout"},
		{name: "unknown among the flags", flags: map[string]any{"x": "1"}, says: []string{`"x"`, "flag"}},
		{name: "nested", file: "tools:\n  shell: true\n", says: []string{"tools", "not a list"}},
		{name: "a dot in a name", file: "\"tools.0\": Read\n", says: []string{`"tools.0"`}},
		{name: "a bare number as a duration", file: "timeout: 300\n", says: []string{"timeout", "unit", "some.yaml"}},
		{name: "the same in the environment", environ: []string{"DREAMCORE_TIMEOUT=300"}, says: []string{"timeout", "unit", "DREAMCORE_TIMEOUT"}},
		{name: "the same in a flag", flags: map[string]any{"timeout": "300"}, says: []string{"timeout", "unit", "flag"}},
		{name: "not a duration", file: "grace: soon\n", says: []string{"grace", `"soon"`}},
		{name: "a broken number", file: "memory_mib: 512.5\n", says: []string{"memory_mib", "512.5", "whole"}},
		{name: "octal by accident", environ: []string{"DREAMCORE_MEMORY_MIB=0x200"}, says: []string{"memory_mib", "0x200"}},
		{name: "a number that is too large", file: "processes: 99999999999999999999\n", says: []string{"processes"}},
		{name: "true is no number", file: "max_generations: true\n", says: []string{"max_generations", "true"}},
		{name: "a number is no text", file: "model: 4\n", says: []string{"model", "quotes"}},
		{name: "a date is no text", file: "model: 2026-01-30\n", says: []string{"model", "quotes"}},
		{name: "true is no text", file: "language: true\n", says: []string{"language"}},
		{name: "a list is no number", file: "cpus: [1]\n", says: []string{"cpus"}},
		{name: "numbers in a list of text", file: "tools: [1, 2]\n", says: []string{"tools", "quotes"}},
		{name: "a number is no list", file: "tools: 1\n", says: []string{"tools", "not a list"}},
		{name: "neither true nor false", file: "allow_unlimited: 1\n", says: []string{"allow_unlimited", "neither true nor false"}},
		{name: "yes is not true", environ: []string{"DREAMCORE_ALLOW_UNLIMITED=yes"}, says: []string{"allow_unlimited", "neither true nor false"}},
		{name: "no value", file: "max_waiting:\n", says: []string{"max_waiting", "no value"}},
		{name: "a list at the top", file: "- a\n", says: []string{"not YAML", "some.yaml"}},
		{name: "text at the top", file: "hello\n", says: []string{"not YAML"}},
		{name: "a tab", file: "a:\n\tb: 1\n", says: []string{"not YAML"}},
		{name: "the same setting twice", file: "listen: :1\nlisten: :2\n", says: []string{"listen"}},
		{name: "a second document", file: "model: a\n---\nlanguage: ja\n", says: []string{"more than one document"}},
		{name: "after the end", file: "model: a\n...\nlanguage: ja\n", says: []string{"more than one document"}},
		{name: "everything at once", file: "timeuot: 5m\ngrace: 5\n", environ: []string{"DREAMCORE_X=1", "DREAMCORE_CPUS=many"}, flags: map[string]any{"max_turns": "x"},
			says: []string{"timeuot", "grace", "DREAMCORE_X", "cpus", "max_turns"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := load(t, tt.file, tt.environ, tt.flags)
			if dreamcore.CodeOf(err) != dreamcore.CodeInvalid || dreamcore.HintOf(err) == "" {
				t.Fatalf("%+v, %v, hint %q", c, err, dreamcore.HintOf(err))
			}
			for _, s := range tt.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%v does not say %q", err, s)
				}
			}
			if !strings.Contains(dreamcore.HintOf(err), tt.hint) {
				t.Errorf("the hint %q does not say %q", dreamcore.HintOf(err), tt.hint)
			}
		})
	}
}

func TestValidateListsEveryFaultAtOnce(t *testing.T) {
	good, err := load(t, "", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	wrong := map[string][]any{
		"commit_message": {"{{.Prompt", "{{.Wish}}", "{{unknown}}"},
		"state":          {"", "relative", "/a\x00b"}, "listen": {"", "8080", "host", "host:", "host:http", "host:65536", "host:08", "a b:1", "::1:80"}, "runtime": {"", "docker", "Runc"}, "identity_file": {"relative", "/a\x00b"}, "secrets_dir": {"relative", "/a\x00b"},
		"rootfs": {"relative"}, "image": {"./relative", "UPPER", "oci-layout:relative", "docker-archive:a.tar", "/a\x00b", "sha256:short"}, "sandbox_uid": {0, -1, 1 << 31}, "sandbox_gid": {0, -5},
		"memory_mib": {255, -1, 1 << 50}, "cpus": {-0.5, 2000.0}, "processes": {15, 1 << 20},
		"disk_mib": {15, -1, 1 << 30}, "min_free_disk_mib": {-1, 1 << 40}, "project_mib": {-1, 1 << 30}, "project_files": {-1, 100_001}, "max_sandboxes": {0, 1 << 20}, "sandbox_idle": {time.Duration(0)}, "sandbox_max_age": {-time.Hour}, "spare_sandboxes": {-1, 101}, "standby_sandboxes": {-1, 101}, "warm_agents": {-2, 1 << 20}, "min_free_mib": {-1, 1 << 40},
		"tools": {[]string{}, []string{""}, []string{"Read", "--x"}, []string{"a b"}, []string{"a,b"}}, "model": {"--model", "a b"}, "max_turns": {-1},
		"timeout": {time.Duration(0), time.Millisecond, 25 * time.Hour}, "output_lines": {0}, "max_generations": {-1, 1 << 20}, "max_waiting": {-1, 1 << 20}, "max_waiting_per_user": {-1, 1001}, "on_disconnect": {"", "stop"}, "disconnect_grace": {-time.Second, 2 * time.Hour}, "attempts": {0, 101},
		"grace": {-time.Second}, "journal_days": {0, 1 << 40}, "jobs_mib": {-1, 1 << 40}, "history_mib": {-1, 1 << 40}, "history_user_mib": {-1, 1 << 40}, "memory_limit_mib": {-1, 127, 1 << 40}, "upstream": {"", "api.example.com", "ftp://x", "https://", "https://a b"},
		"upstreams":  {[]upstream.Entry{{Name: "a", Kind: "anthropic", APIKey: "none", Region: "x"}}, []upstream.Entry{{Name: "a", Kind: "x"}}},
		"webhooks":   {[]webhook.Entry{{URL: "http://a.example.com", Secret: "a"}}, []webhook.Entry{{URL: "https://a.example.com"}}},
		"log_format": {"", "xml"}, "metrics_listen": {"9100"}, "trusted_proxies": {[]string{"10.0.0.1/8"}, []string{"proxy"}},
		"cells": {"cells"}, "cells_service": {"", "a.b", "A"}, "cell_addresses": {"a"}, "kubernetes_api": {"10.0.0.1", "ftp://a"}, "kubernetes_account": {"", "account"},
		"hold": {-time.Second, 11 * time.Minute}, "held_requests": {0, 100_001}, "preview_key_file": {"key"},
		"sandbox_env": {
			map[string]string{"A=B": "x"}, map[string]string{"": "x"}, map[string]string{"1A": "x"}, map[string]string{"A.B": "x"}, map[string]string{"É": "x"},
			map[string]string{"A\x00": "x"}, map[string]string{strings.Repeat("A", 129): "x"}, map[string]string{"A": "x\x00"}, map[string]string{"A": "\xff"},
			map[string]string{"A": strings.Repeat("x", maxVariableBytes+1)}, map[string]string{"PATH": "/x"}, map[string]string{"ANTHROPIC_MODEL": "x"},
			map[string]string{"https_proxy": "x"}, map[string]string{"LD_PRELOAD": "/x.so"},
		},
		"allow_hosts": {[]string{"127.0.0.1"}, []string{"*.com"}}, "allow_private_hosts": {[]string{"db.internal"}}, "inject": {[]string{"a.example.com=b:C"}}, "egress_mib": {0, 1 << 30},
		"model_script": {"a\x00b"}, "model_idle": {time.Millisecond}, "language": {"", "fr"}, "log_level": {"", "loud"},
		"budget_job_usd": {-1.0, math.NaN(), 1e-9}, "budget_job_tokens": {-1}, "budget_user_day_usd": {-1.0}, "budget_user_day_tokens": {-1},
		"budget_user_month_usd": {-1.0}, "budget_user_month_tokens": {-1}, "budget_day_usd": {-1.0, 1e12}, "budget_month_usd": {-1.0, math.Inf(1)},
		"user_requests": {-1, 1 << 30}, "prices": {[]string{"m"}, []string{""}}, "usage_days": {0, 1 << 40}, "audit_mib": {0, 1 << 40},
		"prompt_models": {map[string]string{"haiku": ""}, map[string]string{"haiku": "a b"}}, "max_prompts": {0, -1, 10_001},
		"preview_domain": {"Games.example.com", "127.0.0.1", "a..b", ".a", "a.", "-a.b", "a.1", "ftp://a.b", "a.b/", "a.b:", "a.b:0", "a.b:x", "*.a.b", "a b", "a_b.c", strings.Repeat("a.", 120) + "b"},
		"preview_listen": {"8080", "host:", "a b:1"},
		"preview_hosts":  {[]string{"*"}, []string{"'unsafe-inline'"}, []string{"https:"}, []string{"data:"}, []string{"a.b c.d"}, []string{"https://a.b/path"}, []string{"https://u@a.b"}, []string{""}, []string{"javascript://a.b"}},
		"cors_origins": {
			[]string{"*"}, []string{"null"}, []string{""}, []string{"a.b"}, []string{"https://*.a.b"}, []string{"https://a.b/"}, []string{"https://A.b"},
			[]string{"https://a.b:443"}, []string{"http://a.b:80"}, []string{"https://a.b:"}, []string{"https://a.b:x"}, []string{"https://u@a.b"},
			[]string{"wss://a.b"}, []string{"https://a.b?c"}, []string{"https://a.b, https://c.d"}, []string{"https://a b"}, []string{"http://[::0001]"},
		},
		"acceptance": {"", "on"}, "acceptance_repairs": {-1, 6}, "acceptance_limit": {time.Second, 3 * time.Minute},
		"preview_frame_ancestors": {[]string{"a.b"}, []string{"*"}, []string{"wss://a.b"}, []string{"https://a.b/"}, []string{"https://a.b,c"}},
	}
	types := new(Config).fields()
	delete(types, "allow_unlimited") // true and false are both right
	delete(types, "server_tools")
	delete(types, "share_spending")
	delete(types, "acceptance_on_apply")
	if got, want := slices.Sorted(maps.Keys(wrong)), slices.Sorted(maps.Keys(types)); !slices.Equal(got, want) {
		t.Fatalf("the test has the settings %v, there are %v", got, want)
	}
	all := good
	for key, values := range wrong {
		for _, v := range values {
			c := good
			set(&c, key, v)
			err := c.Validate()
			if dreamcore.CodeOf(err) != dreamcore.CodeInvalid || !strings.Contains(err.Error(), key) || strings.Count(err.Error(), ";") > 0 {
				t.Errorf("%s = %q: %v", key, fmt.Sprint(v), err)
			}
		}
		set(&all, key, values[0])
	}
	err = all.Validate()
	for key := range wrong {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("with every setting wrong, the error does not name %s: %v", key, err)
		}
	}
	if good.Validate() != nil {
		t.Error("the test has changed the good one")
	}
}

func set(c *Config, key string, value any) {
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		if v.Type().Field(i).Tag.Get(tag) == key {
			v.Field(i).Set(reflect.ValueOf(value))
		}
	}
}

func TestUpstreamWithPasswordIsNotPrinted(t *testing.T) {
	_, err := load(t, "", []string{"ANTHROPIC_BASE_URL=htps://user:hunter2@host"}, nil)
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%v", err)
	}
}

func TestSampleHasTheDefaults(t *testing.T) {
	sample := filepath.Join("..", "..", "testdata", "config.yaml")
	got, err := Load(Sources{File: sample, Environ: []string{"HOME=/home/someone"}})
	if err != nil {
		t.Fatal(err)
	}
	want, err := load(t, "", []string{"DREAMCORE_STATE=" + defaultState(nil, true)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the sample differs from the defaults (-default +sample):\n%s", diff)
	}
}

// UPDATE=1 go test -run Generated ./pkg/config writes the sample file and the page
// of the documentation.
func TestGeneratedFilesAreCurrent(t *testing.T) {
	page := filepath.Join("..", "docs", "configure.md")
	raw, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	const mark = "<!-- generated from the table of settings -->\n"
	written, _, ok := strings.Cut(string(raw), mark)
	if !ok {
		t.Fatalf("%s has no line %q", page, mark)
	}
	for file, want := range map[string]string{
		filepath.Join("..", "..", "testdata", "config.yaml"): sampleFile(),
		page: written + mark + referencePage(),
	} {
		if os.Getenv("UPDATE") != "" {
			if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, string(got)); diff != "" {
			t.Errorf("%s differs from the table of settings; run UPDATE=1 go test -run Generated ./pkg/config (-table +file):\n%s", file, diff)
		}
	}
}

// The table and the struct describe the same settings, each with a help text.
func TestEverySettingIsInTheTable(t *testing.T) {
	fields := new(Config).fields()
	for _, s := range Settings() {
		if _, ok := fields[s.Key]; !ok {
			t.Errorf("%s is in the table twice or not in Config", s.Key)
		}
		delete(fields, s.Key)
		if len(s.Help) < 20 || !strings.HasSuffix(s.Help, ".") {
			t.Errorf("%s: the help is not a sentence: %q", s.Key, s.Help)
		}
		if strings.ContainsAny(s.Help, "\n\t") {
			t.Errorf("%s: the help is not one line", s.Key)
		}
	}
	for key := range fields {
		t.Errorf("%s is not in the table", key)
	}
}

func TestTheStateDirectory(t *testing.T) {
	for _, tt := range []struct {
		name string
		env  map[string]string
		root bool
		want string
	}{
		{"root", map[string]string{"HOME": "/home/a", "XDG_STATE_HOME": "/x"}, true, "/var/lib/dreamcore"},
		{"a user", map[string]string{"HOME": "/home/a"}, false, "/home/a/.local/state/dreamcore"},
		{"a user with XDG", map[string]string{"HOME": "/home/a", "XDG_STATE_HOME": "/x"}, false, "/x/dreamcore"},
		{"XDG says that relative paths are ignored", map[string]string{"HOME": "/home/a", "XDG_STATE_HOME": "x"}, false, "/home/a/.local/state/dreamcore"},
		{"no home: not absolute, which Validate refuses", nil, false, ".local/state/dreamcore"},
	} {
		if got := defaultState(tt.env, tt.root); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestFileIsReadFromTheStateDirectory(t *testing.T) {
	byFlag, byEnv := t.TempDir(), t.TempDir()
	for dir, model := range map[string]string{byFlag: "flag", byEnv: "env"} {
		if err := os.WriteFile(filepath.Join(dir, FileName), []byte("model: "+model+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	environ := []string{"DREAMCORE_STATE=" + byEnv}
	for _, tt := range []struct {
		src  Sources
		want string
	}{
		{Sources{Environ: environ}, "env"},
		{Sources{Environ: environ, Flags: map[string]any{"state": byFlag}}, "flag"},
		{Sources{Flags: map[string]any{"state": t.TempDir()}}, ""},
		{Sources{Flags: map[string]any{"state": filepath.Join(byFlag, FileName)}}, ""}, // a file: the code that opens it reports that
		{Sources{File: filepath.Join(byEnv, FileName), Flags: map[string]any{"state": byFlag}}, "env"},
	} {
		if c, err := Load(tt.src); err != nil || c.Model != tt.want {
			t.Errorf("%+v: model %q, %v", tt.src, c.Model, err)
		}
	}
	for _, file := range []string{filepath.Join(byFlag, "none.yaml"), byFlag} {
		_, err := Load(Sources{File: file, Environ: environ})
		if dreamcore.CodeOf(err) != dreamcore.CodeInvalid || !strings.Contains(dreamcore.HintOf(err), "--config") || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", file, err)
		}
		if file != byFlag && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the cause is lost: %v", err)
		}
	}
}

func FuzzLoad(f *testing.F) {
	sample, err := os.ReadFile(filepath.Join("..", "..", "testdata", "config.yaml"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sample)
	for _, s := range []string{
		"", "{}", "a", "- 1", "state: &a /x\nrootfs: *a\n", "tools: [Read, [Write]]", "timeout: 9223372036854775807ns", "cpus: .inf", "cpus: .nan",
		"max_turns: 0o17", "? [a]\n: b", "<<: {state: /x}", "state: !!binary aGk=", "model: |\n  a\n  b\n", "timeout: 1h\n---\n", "\xff", "memory_mib: 1e3",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		c, err := load(t, string(file), nil, nil)
		if err == nil {
			if err := c.Validate(); err != nil {
				t.Errorf("loaded, but %v", err)
			}
			return
		}
		if dreamcore.CodeOf(err) != dreamcore.CodeInvalid || dreamcore.HintOf(err) == "" {
			t.Errorf("%v, code %s, hint %q", err, dreamcore.CodeOf(err), dreamcore.HintOf(err))
		}
	})
}

func TestAllowUnlimitedIsReadFromEverySource(t *testing.T) {
	for name, load := range map[string]func() (Config, error){
		"file":        func() (Config, error) { return load(t, "allow_unlimited: true\n", nil, nil) },
		"environment": func() (Config, error) { return load(t, "", []string{"DREAMCORE_ALLOW_UNLIMITED=true"}, nil) },
		"flag":        func() (Config, error) { return load(t, "", nil, map[string]any{"allow_unlimited": true}) },
	} {
		if c, err := load(); err != nil || !c.AllowUnlimited {
			t.Errorf("%s: %v, %v", name, c.AllowUnlimited, err)
		}
	}
	c, err := load(t, "allow_unlimited: true\n", nil, map[string]any{"allow_unlimited": false})
	if err != nil || c.AllowUnlimited {
		t.Errorf("a flag that says false: %v, %v", c.AllowUnlimited, err)
	}
}

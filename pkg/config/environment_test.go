package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestReadEnvironment(t *testing.T) {
	credentials := t.TempDir()
	identity := filepath.Join(credentials, IdentityCredential)
	if err := os.WriteFile(identity, nil, 0o400); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		environ []string
		want    Environment
	}{
		{"nothing", nil, Environment{}},
		{"everything", []string{
			"ANTHROPIC_API_KEY=sk-x", "MODAL_ENDPOINT=https://acme--dreamcore", "MODAL_INTERNAL_SECRET=s", "ALLOW_NON_GVISOR=1",
			"NO_COLOR=1", "TERM=xterm", "DREAMCORE_CONFIG=/c.yaml", "DISPLAY=:0",
		}, Environment{
			APIKey: "sk-x", Endpoint: "https://acme--dreamcore", InternalSecret: "s", NonGVisor: "1",
			NoColor: true, Term: "xterm", ConfigFile: "/c.yaml", Display: true,
		}},
		{"a line break after a secret, as $(cat FILE) in other shells leaves it", []string{"ANTHROPIC_API_KEY= sk-x\r\n", "MODAL_INTERNAL_SECRET=s\n"}, Environment{APIKey: "sk-x", InternalSecret: "s"}},
		{"blank secrets are none", []string{"ANTHROPIC_API_KEY=  ", "MODAL_INTERNAL_SECRET="}, Environment{}},
		{"an empty NO_COLOR is none", []string{"NO_COLOR="}, Environment{}},
		{"Wayland", []string{"WAYLAND_DISPLAY=wayland-0"}, Environment{Display: true}},
		{"the last of two", []string{"TERM=a", "TERM=b"}, Environment{Term: "b"}},
		{"= in a value", []string{"MODAL_ENDPOINT=http://h/?a=b"}, Environment{Endpoint: "http://h/?a=b"}},
		{"an identity of systemd", []string{"CREDENTIALS_DIRECTORY=" + credentials}, Environment{IdentityFile: identity}},
		{"credentials without ours", []string{"CREDENTIALS_DIRECTORY=" + t.TempDir()}, Environment{}},
		{"an identity itself", []string{"DREAMCORE_IDENTITY=AGE-SECRET-KEY-1X\n"}, Environment{Identity: "AGE-SECRET-KEY-1X"}},
		{"no credentials", []string{"CREDENTIALS_DIRECTORY="}, Environment{}},
	} {
		if diff := cmp.Diff(tt.want, ReadEnvironment(tt.environ)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestAllowNonGVisorAcceptsWordsForYesAndNo(t *testing.T) {
	for word, want := range map[string]bool{
		"1": true, "true": true, "TRUE": true, "True": true, "yes": true, "on": true, " true\n": true, "y": true, "t": true,
		"": false, "0": false, "false": false, "No": false, "off": false, " ": false,
	} {
		if got, err := ReadEnvironment([]string{"ALLOW_NON_GVISOR=" + word}).NonGVisorAllowed(); got != want || err != nil {
			t.Errorf("%q: %t, %v", word, got, err)
		}
	}
	for _, word := range []string{"2", "maybe", "truee", "-1", "nil"} {
		got, err := ReadEnvironment([]string{"ALLOW_NON_GVISOR=" + word}).NonGVisorAllowed()
		if got || dreamcore.CodeOf(err) != dreamcore.CodeInvalid || !strings.Contains(err.Error(), "ALLOW_NON_GVISOR") || dreamcore.HintOf(err) == "" {
			t.Errorf("%q: %t, %v", word, got, err)
		}
	}
}

func TestOtherVariablesAreIgnored(t *testing.T) {
	if _, err := load(t, "", []string{"DREAMCORE_TEST_BINARY=/x", "DREAMCORE_CONFIG=/c", "XDREAMCORE_Y=1", "PATH=/bin"}, nil); err != nil {
		t.Error(err)
	}
}

func TestLookup(t *testing.T) {
	get := Lookup([]string{"A=1", "B=", "broken"})
	if get("A") != "1" || get("B") != "" || get("C") != "" || get("broken") != "" {
		t.Errorf("%q %q %q %q", get("A"), get("B"), get("C"), get("broken"))
	}
}

func TestInvokerNeedsRoot(t *testing.T) {
	root := os.Geteuid() == 0
	for name, tt := range map[string]struct {
		environ  []string
		uid, gid int
		ok       bool
	}{
		"sudo":      {[]string{"SUDO_UID=1000", "SUDO_GID=1001"}, 1000, 1001, root},
		"no sudo":   {nil, 0, 0, false},
		"no group":  {[]string{"SUDO_UID=1000"}, 0, 0, false},
		"no number": {[]string{"SUDO_UID=x", "SUDO_GID=1"}, 0, 0, false},
		"below":     {[]string{"SUDO_UID=-1", "SUDO_GID=1"}, 0, 0, false},
		"too large": {[]string{"SUDO_UID=4294967295", "SUDO_GID=1"}, 0, 0, false},
	} {
		uid, gid, ok := Invoker(tt.environ)
		if ok != tt.ok || ok && (uid != tt.uid || gid != tt.gid) {
			t.Errorf("%s: %d %d %t", name, uid, gid, ok)
		}
	}
}

package deploy

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

func TestIDsOfTheAccount(t *testing.T) {
	for _, tc := range []struct {
		name          string
		passwd, group string
		free          bool
		uid, gid      int
		code          dreamcore.Code
	}{
		{"they are free", "", "", false, 10000, 10000, ""},
		{"the account exists", "dreamcore:x:10000:10000::/:/bin/false\n", "dreamcore:x:10000:\n", false, 10000, 10000, ""},
		{"the account has others and no project exists", "dreamcore:x:991:990::/:/bin/false\n", "", true, 991, 990, ""},
		{"the account has others and projects exist", "dreamcore:x:991:990::/:/bin/false\n", "", false, 0, 0, dreamcore.CodeConflict},
		{"another account has the user id", "joe:x:10000:50::/:/bin/sh\n", "", true, 999, 999, ""},
		{"another group has the group id", "", "staff:x:10000:\n", true, 999, 999, ""},
		{"the next free id is used too", "joe:x:10000:50::/:/bin/sh\nann:x:999:50::/:/bin/sh\n", "g:x:998:\n", true, 997, 997, ""},
		{"another account has the user id and projects exist", "joe:x:10000:50::/:/bin/sh\n", "", false, 0, 0, dreamcore.CodeConflict},
		{"the group is ours", "", "dreamcore:x:10000:\n", false, 10000, 10000, ""},
		{"malformed lines", "::\n+\njoe:x:ten:1::\n\n", "x\n", false, 10000, 10000, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newMachine(t)
			m.write("/etc/passwd", m.read("/etc/passwd")+tc.passwd)
			m.write("/etc/group", m.read("/etc/group")+tc.group)
			m.opts.FreeIDs = tc.free
			p, err := m.plan()
			if tc.code != "" {
				if dreamcore.CodeOf(err) != tc.code || dreamcore.ReasonOf(err) == "" {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if s := p.o.Settings; s.UID != tc.uid || s.GID != tc.gid {
				t.Errorf("%d:%d", s.UID, s.GID)
			}
		})
	}
}

func TestAccountThatGetsOtherIDsIsAnError(t *testing.T) {
	m := newMachine(t)
	m.takenID = true
	_, err := m.deploy()
	if dreamcore.CodeOf(err) != dreamcore.CodeSetup || !strings.Contains(err.Error(), "did not get the ids") {
		t.Errorf("error %v", err)
	}
}

func TestSysusersCreatesTheAccount(t *testing.T) {
	tool, err := exec.LookPath("systemd-sysusers")
	sandboxtest.Need(t, err == nil && os.Geteuid() == 0, "systemd-sysusers and root")
	m := newMachine(t)
	m.write("/conf", string(m.mustPlan().accountLines()))
	out, err := exec.Command(tool, "--root="+m.root, m.host("/conf")).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for path, want := range map[string]string{
		"/etc/passwd": "dreamcore:x:10000:10000:dreamcore sandboxes:/:", "/etc/group": "dreamcore:x:10000:",
	} {
		if got := m.read(path); !strings.Contains(got, want) {
			t.Errorf("%s: %s", path, got)
		}
	}
}

func TestNewConfigurationHasTheGivenSettings(t *testing.T) {
	m := newMachine(t)
	s := &m.opts.Settings
	s.Listen, s.Upstream, s.Rootfs, s.ModelScript = "0.0.0.0:80", "http://gw", `/srv/a"b`, ""
	s.More = map[string]string{"tools": "Read,Write", "cpus": "1.5"}
	want := "state: \"/var/lib/dreamcore\"\nlisten: \"0.0.0.0:80\"\nsandbox_uid: 10000\nsandbox_gid: 10000\n" +
		"upstream: \"http://gw\"\nrootfs: \"/srv/a\\\"b\"\ncpus: \"1.5\"\ntools: \"Read,Write\"\n"
	_, got, _ := strings.Cut(string(m.mustPlan().configuration()), "\n")
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestCommandsAreQuotedForAShell(t *testing.T) {
	for want, args := range map[string][]string{
		"a -b --c=d": {"a", "-b", "--c=d"}, "a '' 'b c'": {"a", "", "b c"}, `a 'it'\''s' '$x'`: {"a", "it's", "$x"},
	} {
		if got := (Command{Args: args}).String(); got != want {
			t.Errorf("%s, not %s", got, want)
		}
	}
}

func TestRunReportsHowACommandFailed(t *testing.T) {
	out, err := Run(t.Context(), Command{Args: []string{"/bin/sh", "-c", "cat; echo $A; echo broken >&2; exit 3"}, Env: []string{"A=1"}, Stdin: strings.NewReader("in ")})
	var failed *CommandError
	if string(out) != "in 1\n" || !errors.As(err, &failed) || failed.Stderr != "broken\n" {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := Run(t.Context(), Command{Args: []string{"/usr/bin/env"}}); err != nil || len(out) > 0 {
		t.Errorf("the command got the environment of this process: %q, %v", out, err)
	}
	if _, err := Run(t.Context(), Command{Args: []string{filepath.Join(t.TempDir(), "none")}}); !errors.As(err, &failed) {
		t.Errorf("a program that does not exist: %v", err)
	}
	out, err = Run(t.Context(), Command{Args: []string{"/bin/sh", "-c", "head -c 3000000 /dev/zero; printf end"}, Env: []string{"PATH=/usr/bin:/bin"}})
	if err != nil || len(out) != maxOutput || !strings.HasSuffix(string(out), "end") {
		t.Errorf("%d bytes, %v", len(out), err)
	}
}

func TestRunEndsTheCommandWithTheContext(t *testing.T) {
	reason := errors.New("ctrl-c")
	fifo := filepath.Join(t.TempDir(), "started")
	ctx, cancel := contextUntil(t, fifo, reason)
	defer cancel()
	began := time.Now()
	_, err := Run(ctx, Command{Args: []string{"/bin/sh", "-c", "trap 'exit 0' TERM; : > " + fifo + "; while :; do sleep 0.05; done"}, Env: []string{"PATH=/usr/bin:/bin"}})
	if !errors.Is(err, reason) || time.Since(began) > 20*time.Second {
		t.Errorf("error %v after %v", err, time.Since(began))
	}
}

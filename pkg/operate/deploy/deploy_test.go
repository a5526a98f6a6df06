package deploy

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestDeployInstallsEverythingWithItsModeAndStartsTheService(t *testing.T) {
	m := newMachine(t)
	m.mustDeploy()
	for path, mode := range map[string]fs.FileMode{
		ProgramFile: 0o755, UnitFile: 0o644, SocketFile: 0o644, AccountFile: 0o644, ConfigFile: 0o600,
		ConfigDir: 0o700, "/var/lib/dreamcore": 0o700, "/var/lib/dreamcore/secrets": 0o700,
		"/etc/dreamcore/dreamcore-identity.cred": 0o600, "/var/lib/dreamcore/deployed": 0o600,
	} {
		fi, err := os.Lstat(m.host(path))
		if err != nil {
			t.Error(err)
			continue
		}
		if fi.Mode().Perm() != mode {
			t.Errorf("%s has mode %v, not %v", path, fi.Mode().Perm(), mode)
		}
	}
	if got := m.read(ProgramFile); got != "\x7fELF program one" {
		t.Errorf("the program is %q", got)
	}
	want := []string{
		"systemd-sysusers /etc/sysusers.d/dreamcore.conf",
		"systemd-creds encrypt --name=dreamcore-identity - -",
		"/usr/local/bin/dreamcore setup --yes --json --config /etc/dreamcore/config.yaml",
		"systemctl daemon-reload",
		"systemctl enable dreamcore.socket dreamcore.service",
		"systemctl reset-failed dreamcore.socket dreamcore.service",
		"systemctl restart dreamcore.service",
	}
	if d := cmp.Diff(want, m.ran); d != "" {
		t.Error("commands:", d)
	}
	if to, _ := os.Readlink(m.host("/var/lib/dreamcore/config.yaml")); to != ConfigFile {
		t.Errorf("commands at the terminal would read %q", to)
	}
	if left, _ := filepath.Glob(m.host("/run/dreamcore-deploy-*")); len(left) > 0 {
		t.Errorf("the plain identity is left in %v", left)
	}
}

func TestSecondDeployChangesNothingAndRestartsNothing(t *testing.T) {
	for name, plain := range map[string]bool{"sealed": false, "plain": true} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.noCreds = plain
			m.mustDeploy()
			before := m.tree()
			m.ran = nil
			m.opts.FreeIDs = false // there are volumes now
			if again := done(m.mustDeploy()); again != nil {
				t.Errorf("not unchanged: %v", again)
			}
			if m.ran != nil {
				t.Errorf("ran %v", m.ran)
			}
			// The directory for the identity of setup is not created.
			if d := cmp.Diff(before, m.tree()); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestDeployRestartsExactlyWhenSomethingChanged(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(m *machine)
		want   []string
	}{
		{"program", func(m *machine) {
			if err := os.WriteFile(m.opts.Exe, []byte("\x7fELF program two"), 0o700); err != nil {
				m.t.Fatal(err)
			}
		}, []string{"program", "service"}},
		{"unit edited", func(m *machine) { m.write(UnitFile, "[Service]\n") }, []string{"unit", "systemd", "service"}},
		{"configuration edited", func(m *machine) { m.write(ConfigFile, "listen: elsewhere\n") }, []string{"service"}},
		{"environment created", func(m *machine) { m.write(EnvironmentFile, "HTTPS_PROXY=x\n") }, []string{"service"}},
		{"socket edited", func(m *machine) { m.write(SocketFile, "[Socket]\n") }, []string{"socket", "systemd", "service"}},
		{"stopped", func(m *machine) { m.active = false }, []string{"service"}},
		{"sockets closed", func(m *machine) { m.bound, m.active = "", false }, []string{"service"}},
		{"interrupted before the restart", func(m *machine) { m.write("/var/lib/dreamcore/deployed", "old") }, []string{"service"}},
		{"mode of the program", func(m *machine) { _ = os.Chmod(m.host(ProgramFile), 0o700) }, []string{"program", "service"}},
		{"disabled", func(m *machine) { m.enabled = false }, []string{"start with the machine"}},
		{"not loaded", func(m *machine) { m.loaded, m.enabled = false, true }, []string{"systemd"}},
		{"agent gone", func(m *machine) { _ = os.RemoveAll(m.host("/var/lib/dreamcore/agent")) }, []string{"setup"}},
		{"identity readable", func(m *machine) { _ = os.Chmod(m.host("/etc/dreamcore/dreamcore-identity.cred"), 0o644) }, []string{"identity", "service"}},
		{"nothing", func(*machine) {}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := newMachine(t)
			m.mustDeploy()
			tc.change(m)
			if d := cmp.Diff(tc.want, done(m.mustDeploy())); d != "" {
				t.Error(d)
			}
			if again := done(m.mustDeploy()); again != nil {
				t.Errorf("and a third time: %v", again)
			}
		})
	}
}

func TestPreviewShowsEverythingAndChangesNothing(t *testing.T) {
	m := newMachine(t)
	before := m.tree()
	p := m.mustPlan()
	steps, err := p.Preview(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(before, m.tree()); d != "" {
		t.Error("preview changed files:", d)
	}
	if m.ran != nil {
		t.Errorf("preview ran %v", m.ran)
	}
	var contents, commands []string
	for _, s := range steps {
		if s.Status == Unchanged {
			t.Errorf("%s is unchanged on an empty machine", s.Name)
		}
		contents = append(contents, s.Item.Content)
		commands = append(commands, s.Item.Commands...)
	}
	// Run does what the preview showed.
	if _, err := p.Run(context.Background(), begin, finish); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(commands, m.ran); d != "" {
		t.Error("commands of the preview and commands that ran:", d)
	}
	for _, path := range []string{UnitFile, SocketFile, ConfigFile, AccountFile} {
		if !slices.Contains(contents, m.read(path)) {
			t.Errorf("the preview did not show %s", path)
		}
	}
	steps, err = m.mustPlan().Preview(context.Background())
	if err != nil || done(steps) != nil {
		t.Errorf("preview after the installation: %v, %v", done(steps), err)
	}
}

func TestFailureMidwayLeavesCompleteFilesAndTheNextRunContinues(t *testing.T) {
	for _, failing := range []string{"systemd-sysusers", ProgramFile + " setup", "systemctl daemon-reload", "systemctl enable", "systemctl restart"} {
		t.Run(failing, func(t *testing.T) {
			m := newMachine(t)
			m.fail[failing] = &CommandError{Stderr: "broken on purpose", Err: errors.New("exit status 1")}
			steps, err := m.deploy()
			if err == nil || !strings.Contains(err.Error(), "broken on purpose") || dreamcore.ReasonOf(err) == "" {
				t.Fatalf("error %v, reason %q", err, dreamcore.ReasonOf(err))
			}
			if len(steps) == 0 {
				t.Error("it does not return the steps before the failure")
			}
			for path, what := range m.tree() {
				base := filepath.Base(path)
				if strings.HasPrefix(base, ".") || strings.HasSuffix(base, ".new") || strings.Contains(path, "dreamcore-deploy-") {
					t.Errorf("left: %s %s", path, what)
				}
			}
			clear(m.fail)
			m.mustDeploy()
			if again := done(m.mustDeploy()); again != nil {
				t.Errorf("not unchanged after recovery: %v", again)
			}
		})
	}
}

func TestInterruptedRunStopsWithTheReason(t *testing.T) {
	m := newMachine(t)
	reason := errors.New("ctrl-c")
	ctx, cancel := context.WithCancelCause(context.Background())
	_, err := m.mustPlan().Run(ctx, func(name string) {
		if name == setupStep {
			cancel(reason)
		}
	}, finish)
	if !errors.Is(err, reason) {
		t.Errorf("error %v", err)
	}
}

func TestObstaclesAreReported(t *testing.T) {
	m := newMachine(t)
	if got := m.mustPlan().Obstacles(); os.Geteuid() == 0 && len(got) > 0 {
		t.Errorf("on a good machine: %v", got)
	}
	if err := os.RemoveAll(m.host("/run/systemd")); err != nil {
		t.Fatal(err)
	}
	m.opts.Settings.ModelScript = ""
	p := m.mustPlan()
	err := errors.Join(p.Obstacles()...)
	for _, want := range []string{"systemd is not running", "no key for the model API"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	if reason := dreamcore.ReasonOf(p.Obstacles()[0]); reason != ReasonNoSystemd {
		t.Errorf("the reason is %q", reason)
	}
	// The preview works nevertheless.
	if steps, err := p.Preview(context.Background()); err != nil || len(steps) == 0 {
		t.Errorf("preview: %v, %v", steps, err)
	}
	m.opts.Key = "sk-of-the-environment"
	for _, o := range m.mustPlan().Obstacles() {
		if strings.Contains(o.Error(), "key") {
			t.Error("with a key:", o)
		}
	}
}

func TestRootInstallsFilesBelowItAndRunsNothing(t *testing.T) {
	m := newMachine(t)
	outside := t.TempDir()
	// Absolute links in an image refer to the image.
	m.mkdir("/data/lib")
	if err := os.Symlink("/data", m.host("/var")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, m.host("/usr")); err != nil {
		t.Fatal(err)
	}
	p, err := New(context.Background(), m.opts)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Run(context.Background(), begin, finish); err != nil {
		t.Fatal(err)
	}
	if m.ran != nil || len(m.envs) > 0 {
		t.Errorf("ran %v", m.envs)
	}
	for _, path := range []string{UnitFile, SocketFile, AccountFile, ConfigFile, "/data/lib/dreamcore/config.yaml", outside + "/local/bin/dreamcore"} {
		if _, err := os.Lstat(m.host(path)); err != nil {
			t.Error(err)
		}
	}
	if inside, _ := os.ReadDir(outside); len(inside) > 0 {
		t.Errorf("files outside of the root: %v", inside)
	}
	for _, path := range []string{"/etc/dreamcore/dreamcore-identity", "/data/lib/dreamcore/secrets"} {
		if _, err := os.Lstat(m.host(path)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("an image has %s: %v", path, err)
		}
	}
	steps, err := p.Run(context.Background(), begin, finish)
	if err != nil || done(steps) != nil {
		t.Errorf("again: %v, %v", done(steps), err)
	}
	if o := p.Obstacles(); o != nil {
		t.Errorf("obstacles %v", o)
	}
}

func TestNoStartLeavesTheServiceAlone(t *testing.T) {
	m := newMachine(t)
	m.opts.NoStart = true
	m.mustDeploy()
	if m.active || !m.enabled {
		t.Errorf("active %v, enabled %v", m.active, m.enabled)
	}
}

func TestOptionsThatCannotWorkAreRefused(t *testing.T) {
	for name, change := range map[string]func(o *Options){
		"state with a blank":       func(o *Options) { o.Settings.State = "/var/lib/dream core" },
		"state with a specifier":   func(o *Options) { o.Settings.State = "/var/lib/%n" },
		"state is relative":        func(o *Options) { o.Settings.State = "state" },
		"state is the root":        func(o *Options) { o.Settings.State = "/" },
		"state in a home":          func(o *Options) { o.Settings.State = "/home/me/state" },
		"state goes up":            func(o *Options) { o.Settings.State = "/var/../home/me" },
		"script in a home":         func(o *Options) { o.Settings.ModelScript = "/root/script.json" },
		"root file system in /tmp": func(o *Options) { o.Settings.Rootfs = "/tmp/rootfs" },
		"no port":                  func(o *Options) { o.Settings.Listen = "127.0.0.1" },
		"any port":                 func(o *Options) { o.Settings.Listen = "127.0.0.1:0" },
		"relative root":            func(o *Options) { o.Root = "image" },
		"key for an image":         func(o *Options) { o.KeyFile = "/key" },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			change(&m.opts)
			_, err := New(context.Background(), m.opts)
			if dreamcore.CodeOf(err) != dreamcore.CodeInvalid || dreamcore.ReasonOf(err) == "" {
				t.Errorf("error %v, reason %q", err, dreamcore.ReasonOf(err))
			}
		})
	}
}

func TestForeignFilesAreNotReplaced(t *testing.T) {
	for name, block := range map[string]func(m *machine){
		"directory for the unit":    func(m *machine) { m.mkdir(UnitFile) },
		"directory for the socket":  func(m *machine) { m.mkdir(SocketFile) },
		"directory for the program": func(m *machine) { m.mkdir(ProgramFile) },
		"file for the state":        func(m *machine) { m.write("/var/lib/dreamcore", "mine") },
		"masked": func(m *machine) {
			m.mkdir(filepath.Dir(UnitFile))
			if err := os.Symlink("/dev/null", m.host(UnitFile)); err != nil {
				m.t.Fatal(err)
			}
		},
		"masked socket": func(m *machine) {
			m.mkdir(filepath.Dir(SocketFile))
			if err := os.Symlink("/dev/null", m.host(SocketFile)); err != nil {
				m.t.Fatal(err)
			}
		},
		"other settings in the state directory": func(m *machine) {
			m.write(ConfigFile, "listen: a\n")
			m.write("/var/lib/dreamcore/config.yaml", "listen: b\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			block(m)
			steps, err := m.mustPlan().Preview(context.Background())
			if dreamcore.CodeOf(err) != dreamcore.CodeConflict || dreamcore.ReasonOf(err) == "" {
				t.Errorf("preview: %v, %v, reason %q", done(steps), err, dreamcore.ReasonOf(err))
			}
		})
	}
}

func TestConfigurationOfTheStateDirectoryMovesWithItsContent(t *testing.T) {
	m := newMachine(t)
	const mine = "# mine\nlog_level: debug\n"
	m.write("/var/lib/dreamcore/config.yaml", mine)
	path, adopt, err := existingConfig(m.root, "/var/lib/dreamcore")
	if err != nil || !adopt || path != m.host("/var/lib/dreamcore/config.yaml") {
		t.Fatalf("%q %v %v", path, adopt, err)
	}
	m.opts.Config = []byte(mine + "state: \"/var/lib/dreamcore\"\n")
	m.mustDeploy()
	if got := m.read(ConfigFile); got != string(m.opts.Config) {
		t.Errorf("it is %q now", got)
	}
	path, adopt, err = existingConfig(m.root, "/var/lib/dreamcore")
	if err != nil || adopt || path != m.host(ConfigFile) {
		t.Errorf("afterwards: %q %v %v", path, adopt, err)
	}
}

func TestALinkIsReplacedByAFile(t *testing.T) {
	m := newMachine(t)
	m.mkdir(filepath.Dir(ProgramFile))
	if err := os.Symlink(m.opts.Exe, m.host(ProgramFile)); err != nil {
		t.Fatal(err)
	}
	m.mustDeploy()
	fi, err := os.Lstat(m.host(ProgramFile))
	if err != nil || !fi.Mode().IsRegular() {
		t.Errorf("%v, %v", fi, err)
	}
	if raw, err := os.ReadFile(m.opts.Exe); err != nil || string(raw) != "\x7fELF program one" {
		t.Errorf("the source is %q, %v", raw, err)
	}
}

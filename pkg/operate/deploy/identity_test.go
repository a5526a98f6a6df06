package deploy

import (
	"os"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

const (
	stateIdentity = "/var/lib/dreamcore/secrets/identity"
	sealedFile    = "/etc/dreamcore/dreamcore-identity.cred"
	plainFile     = "/etc/dreamcore/dreamcore-identity"
)

func newKey(t *testing.T) string {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return "# mine\n" + id.String() + "\n"
}

func TestSealedIdentityIsNowhereInPlainText(t *testing.T) {
	m := newMachine(t)
	m.mustDeploy()
	for path, what := range m.tree() {
		if strings.Contains(what, "AGE-SECRET-KEY") {
			t.Errorf("%s shows the identity", path)
		}
	}
	if to, _ := os.Readlink(m.host(stateIdentity)); to != "/run/credentials/dreamcore.service/dreamcore-identity" {
		t.Errorf("commands at the terminal would look at %q", to)
	}
	if unit := m.read(UnitFile); !strings.Contains(unit, "\nLoadCredentialEncrypted=dreamcore-identity:"+sealedFile+"\n") {
		t.Error(unit)
	}
}

func TestIdentityIsAPlainFileIfSystemdCredsCannotEncrypt(t *testing.T) {
	for name, change := range map[string]func(m *machine){
		"no such tool": func(m *machine) { m.noCreds = true },
		"no key":       func(m *machine) { m.credsBad = true },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			change(m)
			for _, s := range m.mustDeploy() {
				if s.Name == identityStep && !strings.Contains(s.Detail, "root only") {
					t.Errorf("the detail is %q", s.Detail)
				}
			}
			if recipients([]byte(m.read(plainFile))) == nil {
				t.Error("there is no identity")
			}
			if fi, err := os.Stat(m.host(plainFile)); err != nil || fi.Mode().Perm() != 0o600 {
				t.Errorf("%v, %v", fi, err)
			}
			if to, _ := os.Readlink(m.host(stateIdentity)); to != plainFile {
				t.Errorf("the link leads to %q", to)
			}
			if unit := m.read(UnitFile); !strings.Contains(unit, "\nLoadCredential=dreamcore-identity:"+plainFile+"\n") {
				t.Error(unit)
			}
			// It stays a plain file if the tool is installed later: the unit must not flap.
			m.noCreds, m.credsBad = false, false
			if again := done(m.mustDeploy()); again != nil {
				t.Errorf("not unchanged: %v", again)
			}
		})
	}
}

func TestIdentityOfTheStateDirectoryMovesIntoTheCredential(t *testing.T) {
	for name, plain := range map[string]bool{"sealed": false, "plain": true} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.noCreds = plain
			key := newKey(t)
			m.write(stateIdentity, key)
			m.write("/var/lib/dreamcore/secrets/other.age", "sealed with it")
			m.mustDeploy()
			p := m.mustPlan()
			raw, err := p.openIdentity(t.Context())
			if err != nil || string(raw) != key {
				t.Errorf("the credential holds %q, %v", raw, err)
			}
			if fi, err := os.Lstat(m.host(stateIdentity)); err != nil || fi.Mode()&os.ModeSymlink == 0 {
				t.Errorf("in the state directory is %v, %v", fi, err)
			}
			// A run that was interrupted before it created the link: the same identity twice.
			if err := os.Remove(m.host(stateIdentity)); err != nil {
				t.Fatal(err)
			}
			m.write(stateIdentity, key)
			if got := done(m.mustDeploy()); !slices.Equal(got, []string{identityStep, "service"}) {
				t.Errorf("changed %v", got)
			}
		})
	}
}

func TestIdentitiesAreNeverLost(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(m *machine)
		code    dreamcore.Code
	}{
		"another identity in the state directory": {func(m *machine) {
			m.mustDeploy()
			_ = os.Remove(m.host(stateIdentity))
			m.write(stateIdentity, newKey(t))
		}, dreamcore.CodeConflict},
		"secrets without an identity": {func(m *machine) {
			m.write("/var/lib/dreamcore/secrets/modal-internal-secret.age", "sealed")
		}, dreamcore.CodeSetup},
		"a damaged identity": {func(m *machine) { m.write(stateIdentity, "junk") }, dreamcore.CodeSetup},
		"a credential of another machine": {func(m *machine) {
			m.write(sealedFile, "sealed elsewhere")
		}, dreamcore.CodeSetup},
		"a directory": {func(m *machine) { m.mkdir(stateIdentity) }, dreamcore.CodeConflict},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			tc.prepare(m)
			before := m.tree()
			_, err := m.deploy()
			if dreamcore.CodeOf(err) != tc.code || dreamcore.ReasonOf(err) == "" {
				t.Errorf("error %v, reason %q", err, dreamcore.ReasonOf(err))
			}
			for _, path := range []string{stateIdentity, sealedFile} {
				if before[path] != m.tree()[path] {
					t.Errorf("%s was %q and is %q", path, before[path], m.tree()[path])
				}
			}
		})
	}
}

func TestSetupGetsTheIdentityAndNoSettingsOfTheEnvironment(t *testing.T) {
	m := newMachine(t)
	m.opts.KeyFile = "-"
	m.opts.Stdin = strings.NewReader("sk-key")
	m.mustDeploy()
	line := "/usr/local/bin/dreamcore setup --yes --json --config /etc/dreamcore/config.yaml --anthropic-key-file -"
	if m.stdin[line] != "sk-key" {
		t.Errorf("it read %q of %v", m.stdin[line], m.ran)
	}
	env := m.envs[line]
	for _, not := range []string{"DREAMCORE_", "MODAL_", "CREDENTIALS_DIRECTORY=/x"} {
		if strings.Contains(env, not) {
			t.Errorf("its environment has %s:\n%s", not, env)
		}
	}
	if !strings.Contains(env, "HTTPS_PROXY=p") || !strings.Contains(env, "PATH=/bin") {
		t.Errorf("its environment lacks the operator's variables:\n%s", env)
	}
	if got, err := m.mustPlan().InternalSecret(t.Context()); err != nil || got != "the-secret" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestTheErrorOfSetupIsThatOfDeploy(t *testing.T) {
	m := newMachine(t)
	m.fail[ProgramFile+" setup"] = &CommandError{
		Err: os.ErrInvalid,
		Stderr: `{"time":"x","level":"ERROR","msg":"of the log","error":"not this"}` + "\n" +
			`{"error":"the agent does not work","code":"SETUP","hint":"name another with --claude PATH"}` + "\n",
	}
	_, err := m.deploy()
	if err == nil || !strings.Contains(err.Error(), "the agent does not work") || dreamcore.HintOf(err) != "name another with --claude PATH" {
		t.Errorf("error %v, reason %q", err, dreamcore.ReasonOf(err))
	}
}

func TestAgentInAHiddenDirectoryIsCopied(t *testing.T) {
	m := newMachine(t)
	dir := t.TempDir() // below /tmp, which the unit hides
	if !hidden(dir) {
		t.Skipf("temporary directories here are in %s, which the unit does not hide", dir)
	}
	claude := dir + "/claude"
	if err := os.WriteFile(claude, []byte("\x7fELF agent"), 0o755); err != nil {
		t.Fatal(err)
	}
	m.opts.Claude = claude
	m.mustDeploy()
	if got := m.read(AgentFile); got != "\x7fELF agent" {
		t.Errorf("the copy is %q", got)
	}
	if !slices.ContainsFunc(m.ran, func(c string) bool { return strings.HasSuffix(c, " --claude "+AgentFile) }) {
		t.Errorf("setup does not use the copy: %v", m.ran)
	}
}

package daemon

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
)

// testState opens an empty state directory with the default settings, changed
// by change, which may be nil.
func testState(t *testing.T, change func(*config.Config)) *State {
	t.Helper()
	cfg, err := config.Load(config.Sources{Flags: map[string]any{"state": filepath.Join(t.TempDir(), "state")}})
	if err != nil {
		t.Fatal(err)
	}
	cfg.DiskMiB = 0 // needs mounts
	if change != nil {
		change(&cfg)
	}
	s, err := OpenState(cfg, config.Environment{}, &secret.Redactor{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 { // Close may be called more than once
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return s
}

func TestOpenStateCreatesAPrivateDirectory(t *testing.T) {
	s := testState(t, nil)
	info, err := os.Stat(s.Config.State)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := s.CheckDisk(); err != nil {
		t.Error(err)
	}
	if left, _ := fs.Glob(os.DirFS(s.Config.State), ".writable-*"); len(left) > 0 {
		t.Errorf("CheckDisk left %v", left)
	}
}

func TestOpenStateRefusesAFileInItsPlace(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := OpenState(config.Config{State: file}, config.Environment{}, &secret.Redactor{})
	if dreamcore.CodeOf(err) != dreamcore.CodeSetup || !strings.Contains(err.Error(), file) {
		t.Errorf("%v", err)
	}
}

func TestTwoIdentitiesAreRefused(t *testing.T) {
	cfg := config.Config{State: t.TempDir(), IdentityFile: "/identity"}
	env := config.Environment{Identity: "AGE-SECRET-KEY-1"}
	if _, err := OpenState(cfg, env, &secret.Redactor{}); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
		t.Errorf("OpenState: %v", err)
	}
	if _, err := Secrets(cfg, env, true); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
		t.Errorf("Secrets: %v", err)
	}
}

func TestIdentityFileOfTheSettingTakesPrecedence(t *testing.T) {
	for _, tt := range []struct{ setting, environment, want string }{
		{"", "", ""}, {"", "/credential", "/credential"}, {"/setting", "", "/setting"}, {"/setting", "/credential", "/setting"},
	} {
		if got := identityFile(config.Config{IdentityFile: tt.setting}, config.Environment{IdentityFile: tt.environment}); got != tt.want {
			t.Errorf("%+v: %q", tt, got)
		}
	}
}

// A client on a machine that serves nothing leaves no secrets behind.
func TestSecretsAreCreatedOnlyOnRequest(t *testing.T) {
	cfg := config.Config{State: t.TempDir()}
	if _, err := Secrets(cfg, config.Environment{}, false); err == nil {
		t.Error("secrets were opened that do not exist")
	}
	if entries, err := os.ReadDir(cfg.State); err != nil || len(entries) > 0 {
		t.Errorf("the state directory has %v, %v", entries, err)
	}
	if _, err := Secrets(cfg, config.Environment{}, true); err != nil {
		t.Error(err)
	}
}

func TestRotationsAreAudited(t *testing.T) {
	s := testState(t, nil)
	if err := s.AuditRotation(nil); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(s.Path(AuditDir)); err == nil {
		t.Error("an audit log was created without a rotation")
	}
	if err := s.AuditRotation([]string{secret.InternalSecret}); err != nil {
		t.Fatal(err)
	}
	var targets []string
	err := audit.Read(t.Context(), s.Path(AuditDir), audit.Filter{Since: time.Now().Add(-time.Hour)}, false, func(e audit.Entry, _ []byte) error {
		targets = append(targets, e.Target)
		return nil
	})
	if err != nil || !slices.Equal(targets, []string{"rotate " + secret.InternalSecret}) {
		t.Errorf("%v, %v", targets, err)
	}
}

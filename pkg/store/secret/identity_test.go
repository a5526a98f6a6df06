package secret

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestTheCredentialOfAStoppedServiceIsNotReportedAsLost(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "secrets")
	if _, err := Init(dir, ""); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Create("a-secret", map[string]string{"KEY": "value"}, false); err != nil {
		t.Fatal(err)
	}
	identity := filepath.Join(dir, identityName)
	if err := os.Remove(identity); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(t.TempDir(), "credential"), identity); err != nil {
		t.Fatal(err)
	}
	for what, open := range map[string]func() error{
		"Open": func() error { _, err := Open(dir, ""); return err },
		"Init": func() error { _, err := Init(dir, ""); return err },
	} {
		err := open()
		if dreamcore.CodeOf(err) != dreamcore.CodeSetup || !strings.Contains(dreamcore.HintOf(err), "systemctl start dreamcore") {
			t.Errorf("%s: %v (%s)", what, err, dreamcore.HintOf(err))
		}
	}
	if _, err := os.Lstat(identity); err != nil {
		t.Errorf("the link was removed: %v", err)
	}
}

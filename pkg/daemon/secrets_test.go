package daemon

import (
	"encoding/base64"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
)

func TestSandboxVariablesMustNotContainSecrets(t *testing.T) {
	s := &State{
		Config: config.Config{State: t.TempDir()}, Redactor: &secret.Redactor{},
		env: config.Environment{APIKey: "sk-ant-of-the-environment"},
	}
	store, _, err := s.CreateSecrets()
	if err != nil {
		t.Fatal(err)
	}
	const sealed = "0123-the-sealed-value-xyz"
	if err := store.Create("images", map[string]string{"KEY": sealed}, false); err != nil {
		t.Fatal(err)
	}
	internal := secret.NewInternalSecret()
	if err := store.Create(secret.InternalSecret, map[string]string{secret.InternalKey: internal}, false); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"sealed": sealed, "within": "Bearer " + sealed, "base64": base64.StdEncoding.EncodeToString([]byte(sealed)),
		"hexadecimal": hex.EncodeToString([]byte(sealed)), "internal": internal, "environment": "x" + s.env.APIKey,
		"identity": s.identity(),
	} {
		err := s.checkVariables(map[string]string{"GOOD": "https://images.example.com", "BAD_" + name: value})
		if dreamcore.CodeOf(err) != dreamcore.CodeInvalid || !strings.Contains(err.Error(), "BAD_"+name) || strings.Contains(err.Error(), "GOOD") || strings.Contains(err.Error(), value) || dreamcore.HintOf(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, good := range []map[string]string{nil, {}, {"A": "placeholder", "B": "", "C": "the-sealed-value"}} {
		if err := s.checkVariables(good); err != nil {
			t.Errorf("%v: %v", good, err)
		}
	}
}

func TestMountedSecretsAreUsedAndGuarded(t *testing.T) {
	mounted := t.TempDir()
	const internal = "the-mounted-internal-secret"
	if err := os.WriteFile(filepath.Join(mounted, secret.InternalSecret+"."+secret.InternalKey), []byte(internal+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &State{Config: config.Config{State: t.TempDir(), SecretsDir: mounted}, Redactor: &secret.Redactor{}}
	store, _, err := s.CreateSecrets()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := store.InternalValues(); err != nil || !slices.Equal(got, []string{internal}) {
		t.Errorf("%q, %v", got, err)
	}
	if err := s.checkVariables(map[string]string{"BAD": internal}); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
		t.Errorf("a variable with the secret: %v", err)
	}
}

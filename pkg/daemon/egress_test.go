package daemon

import (
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/egress"
)

func TestInjectedSecretIsReadAndHidden(t *testing.T) {
	s := testState(t, nil)
	store, _, err := s.CreateSecrets()
	if err != nil {
		t.Fatal(err)
	}
	const one, a, b = "value-of-the-only-key", "value-of-key-a-0123", "value-of-key-b-0123"
	for name, values := range map[string]map[string]string{"single": {"KEY": one}, "double": {"A": a, "B": b}} {
		if err := store.Create(name, values, false); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		secret, key, want, fault string
	}{
		{"single", "", one, ""},
		{"single", "KEY", one, ""},
		{"double", "B", b, ""},
		{"double", "", "", "several keys"},
		{"double", "C", "", "several keys"},
		{"missing", "", "", "cannot be read"},
	} {
		got, err := s.injected(egress.Injection{Secret: tt.secret, Key: tt.key})
		if got != tt.want || (err == nil) != (tt.fault == "") || err != nil && !strings.Contains(err.Error(), tt.fault) {
			t.Errorf("%s/%s: %q, %v", tt.secret, tt.key, got, err)
		}
		if err != nil && dreamcore.CodeOf(err) != dreamcore.CodeSetup {
			t.Errorf("%s/%s: code of %v", tt.secret, tt.key, err)
		}
	}
	if s.Redactor.Redact(one) == one || s.Redactor.Redact(b) == b || s.Redactor.Redact(a) != a {
		t.Error("not exactly the values in use are hidden")
	}
}

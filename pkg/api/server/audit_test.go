package server

import (
	"net/http"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
)

func TestWrongSecretsAreAuditedWithoutFillingTheLog(t *testing.T) {
	dir := t.TempDir()
	log, err := audit.Open(dir, audit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	s := &Server{cfg: Config{Audit: log}}
	for range 200 {
		r, err := http.NewRequest(http.MethodPost, "http://x/test_auth", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set(SecretHeader, "not-the-secret")
		s.auditRefusal(&exchange{client: "192.0.2.1"}, r)
	}
	n := 0
	if err := audit.Read(t.Context(), dir, audit.Filter{}, false, func(e audit.Entry, raw []byte) error {
		n++
		if e.Event != audit.EventAuth || e.Verdict != audit.Refused || e.Target != "/test_auth" || strings.Contains(string(raw), "not-the-secret") {
			t.Errorf("%s", raw)
		}
		return nil
	}); err != nil || n < 10 || n > 100 {
		t.Errorf("%d records, %v", n, err)
	}
}

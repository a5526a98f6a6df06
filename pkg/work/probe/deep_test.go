package probe

import (
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestDeepRefusesInvalidRequests(t *testing.T) {
	plain, deep := prober(t, &fakes{}), New(Config{Sandboxes: &fakes{}, Deep: &Deep{Dir: t.TempDir()}})
	for _, tt := range []struct {
		p            *Prober
		check, nonce string
		code         dreamcore.Code
	}{
		{plain, "dns", "", dreamcore.CodeNotFound},
		{deep, "", "", dreamcore.CodeInvalid},
		{deep, "dns2", "", dreamcore.CodeInvalid},
		{deep, "dns", "short", dreamcore.CodeInvalid},
		{deep, "dns", strings.Repeat("x", MaxNonce+1), dreamcore.CodeInvalid},
		{deep, "dns", "0123456789abcdef; rm -rf /", dreamcore.CodeInvalid},
	} {
		if _, err := tt.p.Deep(t.Context(), tt.check, tt.nonce); dreamcore.CodeOf(err) != tt.code {
			t.Errorf("%q %q: %v, want %s", tt.check, tt.nonce, err, tt.code)
		}
	}
}

func TestSearchFindsTextsAcrossWrites(t *testing.T) {
	const text = "0123456789abcdefXYZ"
	s := newSearch(map[string]string{"it": text, "unset": ""})
	all := "aa" + text + "bb" + "Ogo=" + "MDEyMzQ1Njc4OWFiY2RlZlhZWg==" + "ZYXfedcba9876543210" + "30313233343536373839616263646566" + "58595a"
	for i := range len(all) {
		if _, err := s.Write([]byte(all[i : i+1])); err != nil {
			t.Fatal(err)
		}
	}
	if s.counts["it"] != 4 || s.total != int64(len(all)) {
		t.Errorf("found %d times in %d bytes", s.counts["it"], s.total)
	}
	if _, there := s.counts["unset"]; there {
		t.Error("it searches for a text that is not set")
	}
}

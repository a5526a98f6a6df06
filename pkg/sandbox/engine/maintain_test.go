package engine

import (
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// TestACleaningThatWouldRemoveNothingIsAnError: the next job would find what the last
// one has left.
func TestACleaningThatWouldRemoveNothingIsAnError(t *testing.T) {
	for _, r := range []sandbox.Residue{{Empty: []string{"/tmp"}}, {Special: []string{"/data"}}} {
		if err := (&box{}).Clean(t.Context(), r); err == nil || !strings.Contains(err.Error(), "owner") {
			t.Errorf("%+v: %v", r, err)
		}
	}
}

package archive

import (
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

func TestTheBudgetOfAUserIsShared(t *testing.T) {
	b := &budget{names: 3, bytes: 100}
	for i, e := range []struct {
		size   int64
		inside bool
	}{{60, true}, {50, false}, {40, true}, {0, true}, {0, false}} {
		if reason := b.excess(tree.Entry{Size: e.size}); (reason == "") != e.inside {
			t.Errorf("entry %d: %q", i, reason)
		}
	}
	var none *budget
	if reason := none.excess(tree.Entry{Size: 1 << 60}); reason != "" {
		t.Errorf("without a budget: %q", reason)
	}
}

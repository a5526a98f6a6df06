package usage

import (
	"errors"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestARunningRequestReservesItsHighestCost(t *testing.T) {
	b, err := Open(t.TempDir(), Options{Prices: prices(t, "m in=1 out=1 write=1 write1h=10"), Limits: Limits{JobCost: 500_000}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	j := b.Job("u", "p", "j")
	update, err := j.Reserve("m", 100, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = j.Reserve("m", 100, 0)
	if over, ok := errors.AsType[*dreamcore.OverBudget](err); !ok || over.After == 0 {
		t.Errorf("while a request may use the whole budget: %v", err)
	}
	update(dreamcore.Spent{Tokens: dreamcore.Tokens{CacheWrite: 100}}, true)
	if update, err = j.Reserve("m", 100, 0); err != nil {
		t.Errorf("after it has ended: %v", err)
	} else {
		update(dreamcore.Spent{}, true)
	}
}

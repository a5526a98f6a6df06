package dreamcore_test

import (
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestSlotsNeverChange(t *testing.T) {
	// Files of users lie on the machines that these slots point to.
	for user, want := range map[dreamcore.UserID]int{
		"00000000-0000-4000-8000-000000000000": 896,
		"a11ce000-0000-4000-8000-000000000001": 910,
		"ffffffff-ffff-4fff-bfff-ffffffffffff": 710,
	} {
		if got := user.Slot(); got != want {
			t.Errorf("slot of %s: %d, want %d", user, got, want)
		}
	}
}

func TestSlotsAreEven(t *testing.T) {
	const perSlot = 64
	var count [dreamcore.Slots]int
	for range perSlot * dreamcore.Slots {
		count[dreamcore.NewUserID().Slot()]++
	}
	for slot, n := range count {
		if n < perSlot/4 || n > perSlot*3 {
			t.Errorf("slot %d has %d users of %d on average", slot, n, perSlot)
		}
	}
}

func TestJobIDsNameTheSlot(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		user := dreamcore.NewUserID()
		id := dreamcore.NewJobID(user)
		if parsed, err := dreamcore.ParseJobID(id); err != nil || parsed != id || id[14] != '4' || seen[id] {
			t.Fatalf("%q: %v", id, err)
		}
		seen[id] = true
		if slot, ok := dreamcore.JobSlot(id); !ok || slot != user.Slot() {
			t.Errorf("%s: slot %d, %v, want %d", id, slot, ok, user.Slot())
		}
	}
	if _, ok := dreamcore.JobSlot("x"); ok {
		t.Error("x is taken for a job id")
	}
}

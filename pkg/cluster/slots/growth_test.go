package slots

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// A simulation of clusters with ten million users, of whom one in ten is drawn: how
// even cells are, how large the map is, and what moves when a cell is added.
func TestTenMillionUsers(t *testing.T) {
	const users, drawn = 10_000_000, 10
	rng := rand.New(rand.NewPCG(1, 2))
	var inSlot [dreamcore.Slots]int
	for range users / drawn {
		var id uuid.UUID
		for i := range id {
			id[i] = byte(rng.Uint32())
		}
		id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
		inSlot[dreamcore.UserID(id.String()).Slot()] += drawn
	}
	for _, cells := range []int{2, 10, 100, 1000} {
		var names []string
		for i := range cells {
			names = append(names, fmt.Sprintf("cell-%d", i))
		}
		m, err := Even(names)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		inCell := map[string]int{}
		for slot, n := range inSlot {
			inCell[m.Owner(slot)] += n
		}
		var sizes []int
		for _, n := range inCell {
			sizes = append(sizes, n)
		}
		busiest := float64(slices.Max(sizes)) / (users / float64(cells))
		larger, err := m.Edit(func(d *Draft) error {
			d.Cells = append(d.Cells, fmt.Sprintf("cell-%d", cells))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		moved := 0
		for _, s := range larger.Plan() {
			moved += inSlot[s.Slot]
		}
		share := float64(moved) / users
		t.Logf("%d cells: %d bytes of map; the busiest has %.2f of an even part; another cell moves %.4f of the users", cells, len(raw), busiest, share)
		// With 1,024 slots, some of 1,000 cells have two and the others one.
		if len(raw) > 64<<10 || busiest > 1.2 && cells <= 100 || busiest > 2.2 || share > 1.1/float64(cells+1) {
			t.Errorf("%d cells: %d bytes of map, the busiest has %.2f of an even part, another cell moves %.4f of the users", cells, len(raw), busiest, share)
		}
	}
}

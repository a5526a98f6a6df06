package slots

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

const (
	user  = "a11ce000-0000-4000-8000-000000000001" // of slot 910
	other = "ffffffff-ffff-4fff-bfff-ffffffffffff" // of slot 710
)

const valid = `{"generation":7,"cells":["cell-0","cell-1","cell-2"],"slots":{"cell-0":"0-511","cell-1":"512-1020,1021,1022-1023"},
	"users":{"` + user + `":"cell-2"},"moving":{"slots":{"710":"cell-2"},"users":{}},"draining":["cell-0"]}`

func TestAMapIsDecoded(t *testing.T) {
	m, err := Decode([]byte(valid))
	if err != nil {
		t.Fatal(err)
	}
	if m.Generation() != 7 || !slices.Equal(m.Cells(), []string{"cell-0", "cell-1", "cell-2"}) || !m.Draining("cell-0") || m.Draining("cell-1") {
		t.Errorf("%+v", m)
	}
	for id, want := range map[dreamcore.UserID]Place{
		user: {"cell-2", false}, other: {"cell-1", true}, "00000000-0000-4000-8000-000000000000": {"cell-1", false},
	} {
		if got := m.User(id); got != want {
			t.Errorf("%s (slot %d): %+v, want %+v", id, id.Slot(), got, want)
		}
	}
	if got := m.Slot(910); !slices.Equal(got, []Place{{"cell-2", false}, {"cell-1", false}}) {
		t.Errorf("a slot with an exception: %+v", got)
	}
	if got := m.Slot(0); !slices.Equal(got, []Place{{"cell-0", false}}) {
		t.Errorf("slot 0: %+v", got)
	}
}

func TestAUserThatMovesHoldsUpOnlyItself(t *testing.T) {
	m, err := Decode([]byte(strings.Replace(valid, `"users":{}}`, `"users":{"`+user+`":"cell-0"}}`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	if p := m.User(user); p != (Place{"cell-2", true}) {
		t.Errorf("%+v", p)
	}
	id := dreamcore.NewUserID()
	for id.Slot() != 910 {
		id = dreamcore.NewUserID()
	}
	if p := m.User(id); p != (Place{"cell-1", false}) {
		t.Errorf("a neighbour: %+v", p)
	}
}

func TestFaultsOfAMapAreNamed(t *testing.T) {
	replaced := func(old, new string) string {
		if !strings.Contains(valid, old) {
			t.Fatalf("%s is not in the map", old)
		}
		return strings.Replace(valid, old, new, 1)
	}
	var many []string
	for i := range MaxCells + 1 {
		many = append(many, fmt.Sprintf("c%d", i))
	}
	tooMany, _ := json.Marshal(many)
	users := map[string]string{}
	for range MaxUsers + 1 {
		users[string(dreamcore.NewUserID())] = "cell-0"
	}
	exceptions, _ := json.Marshal(users)
	for raw, want := range map[string]string{
		"":                                                        "EOF",
		"[]":                                                      "array",
		valid + "{}":                                              "follows",
		replaced("generation", "versions"):                        "unknown field",
		replaced("7", "-7"):                                       "generation",
		replaced("0-511", "0-510"):                                "slot 511 belongs to no cell",
		replaced("0-511", "0-512"):                                "slot 512 belongs to cell-0 and to cell-1",
		replaced("0-511", "511-0"):                                "end before",
		replaced("0-511", "0-511,"):                               "not a slot",
		replaced("0-511", "+0-511"):                               "not a slot",
		replaced("0-511", "00-511"):                               "not a slot",
		replaced("1022-1023", "1022-1024"):                        "not a slot",
		replaced(`"cell-1":`, `"cell-9":`):                        "not in the list",
		replaced(`"cell-2"]`, `"cell-0"]`):                        "twice",
		replaced(`"cell-2"]`, `"Cell"]`):                          "not the name",
		replaced(`"cell-2"]`, `"a/b"]`):                           "not the name",
		replaced(`"cell-1":`, `"cell-0":`):                        "twice",
		replaced(`"users"`, `"SLOTS"`):                            "twice",
		replaced(user, strings.ToUpper(user)):                     "lower case",
		replaced(user, "x"):                                       "not a user",
		replaced(`:"cell-2"},"m`, `:"x"},"m`):                     "not in the list",
		replaced(`"710"`, `"1024"`):                               "not a slot",
		replaced(`["cell-0"]`, `["cell-7"]`):                      "not in the list",
		replaced(`["cell-0","cell-1","cell-2"]`, string(tooMany)): "1025 cells",
		replaced(`"users":{}`, `"users":`+string(exceptions)):     "exceptions",
		valid + strings.Repeat(" ", MaxBytes):                     "bytes",
		`{"cells":[]}`:                                            "0 cells",
	} {
		_, err := Decode([]byte(raw))
		if dreamcore.CodeOf(err) != dreamcore.CodeInvalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%.200s: %v, want %q", raw, err, want)
		}
	}
}

func TestEvenDividesAllSlots(t *testing.T) {
	for _, n := range []int{1, 2, 3, 7, 1000, MaxCells} {
		var cells []string
		for i := range n {
			cells = append(cells, fmt.Sprintf("cell-%d", i))
		}
		m, err := Even(cells)
		if err != nil {
			t.Fatal(err)
		}
		count := map[string]int{}
		for slot := range dreamcore.Slots {
			count[m.Slot(slot)[0].Cell]++
		}
		for _, c := range cells {
			if count[c] < dreamcore.Slots/n || count[c] > dreamcore.Slots/n+1 {
				t.Errorf("%d cells: %s has %d slots", n, c, count[c])
			}
		}
	}
	if _, err := Even(nil); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
		t.Errorf("no cells: %v", err)
	}
}

// BenchmarkDecode decodes a map of 1,000 cells with as many exceptions as it may have.
func BenchmarkDecode(b *testing.B) {
	o := map[string]any{"generation": 1}
	cells, ranges, users := []string{}, map[string]string{}, map[string]string{}
	for i := range 1000 {
		cells = append(cells, fmt.Sprintf("cell-%d", i))
	}
	for slot := range dreamcore.Slots {
		name := cells[slot%len(cells)]
		ranges[name] = strings.TrimPrefix(ranges[name]+","+fmt.Sprint(slot), ",")
	}
	for i := range MaxUsers {
		users[string(dreamcore.NewUserID())] = cells[i%len(cells)]
	}
	o["cells"], o["slots"], o["users"] = cells, ranges, users
	raw, err := json.Marshal(o)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := Decode(raw); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(raw))/1024, "KiB")
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(valid))
	f.Add([]byte(`{"cells":["a"],"slots":{"a":"0-1023"}}`))
	f.Add([]byte(`{"cells":["a"],"slots":{"a":"0-1023"},"moving":{"slots":{"1":"a"},"users":{"` + other + `":"a"}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := Decode(raw)
		if err != nil {
			if m != nil || dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
				t.Errorf("%v, %v", m, err)
			}
			return
		}
		for slot := range dreamcore.Slots {
			places := m.Slot(slot)
			if len(places) == 0 || len(places) > len(m.Cells()) {
				t.Fatalf("slot %d: %v", slot, places)
			}
			for _, p := range places {
				if !slices.Contains(m.Cells(), p.Cell) {
					t.Fatalf("slot %d: %v", slot, p)
				}
			}
		}
		if p := m.User(user); !slices.ContainsFunc(m.Slot(910), func(q Place) bool { return q.Cell == p.Cell }) {
			t.Errorf("the user is in %v, the slot in %v", p, m.Slot(910))
		}
	})
}

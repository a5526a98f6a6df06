package slots

import (
	"net"
	"slices"
	"strings"
	"testing"
)

func TestFilesWithAddressesAreChecked(t *testing.T) {
	got, err := ParseAddresses("# two\ncell-0 127.0.0.1:8081\n\n  cell-1\t[::1]:8082  \n# end")
	if want := []Address{{Cell: "cell-0", Address: "127.0.0.1:8081"}, {Cell: "cell-1", Address: "[::1]:8082"}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	for text, want := range map[string]string{
		"a": "line 1", "a 127.0.0.1": "line 1", "\na 127.0.0.1:1 x": "line 2", "a :80": "line 1", "a h:": "line 1", "a h:0": "line 1", "a h:1\nb h:1": "line 2: two cells",
	} {
		if _, err := ParseAddresses(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzAddresses(f *testing.F) {
	f.Add("cell-0 127.0.0.1:8081\ncell-1 h:1\n")
	f.Fuzz(func(t *testing.T, text string) {
		cells, err := ParseAddresses(text)
		if err != nil {
			return
		}
		var names []string
		for _, c := range cells {
			if _, _, err := net.SplitHostPort(c.Address); err != nil || c.Cell == "" {
				t.Errorf("%+v", c)
			}
			names = append(names, c.Cell)
		}
		if m, err := Even(names); err == nil && !slices.Equal(m.Cells(), names) {
			t.Errorf("%v of %v", m.Cells(), names)
		}
	})
}

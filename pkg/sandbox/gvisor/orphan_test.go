package gvisor

import "testing"

func TestStatIsReadWhateverTheNameIs(t *testing.T) {
	for _, tt := range []struct {
		line, comm, state, parent string
		ok                        bool
	}{
		{"123 (exe) Z 77 1 1", "exe", "Z", "77", true},
		{"123 (a (b) c) S 1 2", "a (b) c", "S", "1", true},
		{"123 () R 9", "", "R", "9", true},
		{"123 (x)", "", "", "", false},
		{"garbage", "", "", "", false},
		{")(", "", "", "", false},
	} {
		comm, state, parent, ok := parseStat([]byte(tt.line))
		if comm != tt.comm || state != tt.state || parent != tt.parent || ok != tt.ok {
			t.Errorf("%q: %q %q %q %v", tt.line, comm, state, parent, ok)
		}
	}
}

package term

import (
	"bytes"
	"strings"
	"testing"
)

func TestScreenPassesDrawingOnly(t *testing.T) {
	for in, want := range map[string]string{
		"plain äöü 日本 🎮\r\n\t\b\a":                      "plain äöü 日本 🎮\r\n\t\b\a",
		"\x1b[31;1mred\x1b[0m \x1b[2J\x1b[10;20H":       "\x1b[31;1mred\x1b[0m \x1b[2J\x1b[10;20H",
		"\x1b[?1049h\x1b[?25l\x1b[38:2::1:2:3m":         "\x1b[?1049h\x1b[?25l\x1b[38:2::1:2:3m",
		"\x1b(0lqk\x1b(B\x1b7\x1b8\x1bM":                "\x1b(0lqk\x1b(B\x1b7\x1b8\x1bM",
		"\x1b[4 q":                                      "\x1b[4 q",
		"a\x1b]52;c;Y2F0\ab":                            "ab", // the clipboard
		"a\x1b]0;title\x1b\\b":                          "ab",
		"a\x1bP+q544e\x1b\\b":                           "ab", // a question about capabilities
		"a\x1b_payload\x1b\\b\x1b^x\x1b\\c\x1bXy\x1b\\": "abc",
		"a\x1b[cb\x1b[>cb\x1b[6nb\x1b[21tb\x1b[5ib":     "abbbbb", // answers, printers
		"a\x1b[?5ib\x1b[>qb\x1b[!pb\x1b[?6nb\x1b[?1$pb": "abbbbb",
		"a\x1bcb\x1bZb\x1b#8b":                          "abb8b",
		"a\x1b[2hb\x1b[20hb\x1b[12hb\x1b[4hb":           "abbb\x1b[4hb", // a locked keyboard
		"a\x1b[?9hb\x1b[?1001hb\x1b[?25;2048hb":         "abbb",         // reports
		"a\x1b[?2048hb\x1b[?3hb\x1b[?h\x1b[hb":          "abbb",         // no or unknown modes
		"a\x1b[999999999bb\x1b[9999b":                   "ab\x1b[9999b",
		"a\x1bHb\x1b[3gb":                               "abb", // tabulators
		"a\x1b[?6hb\x1b[?6;7hb":                         "abb",
		"a\x05b\x00c\x7fd":                              "a?bcd",
		"a\x9b31mb\x9d0;x\ac":                           "a?31mb?0;x\ac", // 8-bit controls
		"a\u009b31mb":                                   "a?31mb",
		"a\xc3b\xff":                                    "a?b?",
		"a\x1b[3\x1b[1mb":                               "a\x1b[1mb",
		"a\x1b]0;never\x1b[1mb":                         "a\x1b[1mb",
		"a\x1b[" + strings.Repeat("1;", 100) + "mb":     "ab",
	} {
		for _, size := range []int{1, 3, 1 << 10} {
			var out bytes.Buffer
			s := NewScreen(&out)
			for rest := []byte(in); len(rest) > 0; {
				n := min(size, len(rest))
				if got, err := s.Write(rest[:n]); got != n || err != nil {
					t.Fatal(got, err)
				}
				rest = rest[n:]
			}
			if out.String() != want {
				t.Errorf("%q in pieces of %d: %q, want %q", in, size, out.String(), want)
			}
		}
	}
}

func TestScreenRestoresTheTerminalIfItWasUsed(t *testing.T) {
	for in, want := range map[string]string{"plain\n": "plain\n", "\x1b[?25l": "\x1b[?25l" + resetScreen, "\x0e": "\x0e" + resetScreen} {
		var out bytes.Buffer
		s := NewScreen(&out)
		if _, err := s.Write([]byte(in)); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil || out.String() != want {
			t.Errorf("%q: %q, %v", in, out.String(), err)
		}
	}
}

func TestScreenResetsEveryModeThatItPasses(t *testing.T) {
	for prefix, list := range map[string][]string{"\x1b[": screenModes, "\x1b[?": privateModes} {
		for _, mode := range list {
			if mode == "1048" { // saves the cursor
				continue
			}
			if !strings.Contains(resetScreen, prefix+mode+"l") && !strings.Contains(resetScreen, prefix+mode+"h") {
				t.Errorf("%q is not reset", prefix+mode)
			}
		}
	}
}

// Whatever is written, only sequences that draw come out, and the same in any
// pieces.
func FuzzScreen(f *testing.F) {
	f.Add([]byte("a\x1b[31mb\x1b]52;c;x\ac\x1bP1\x1b\\d\x9b5n"), uint8(3))
	f.Fuzz(func(t *testing.T, in []byte, cut uint8) {
		var whole, pieces bytes.Buffer
		if _, err := NewScreen(&whole).Write(in); err != nil {
			t.Fatal(err)
		}
		s := NewScreen(&pieces)
		at := min(int(cut), len(in))
		_, _ = s.Write(in[:at])
		_, _ = s.Write(in[at:])
		if !bytes.Equal(whole.Bytes(), pieces.Bytes()) {
			t.Fatalf("%q and %q", whole.Bytes(), pieces.Bytes())
		}
		// The output passes unchanged, so it holds nothing that would be dropped.
		var again bytes.Buffer
		if _, err := NewScreen(&again).Write(whole.Bytes()); err != nil || !bytes.Equal(again.Bytes(), whole.Bytes()) {
			t.Fatalf("%q, then %q, %v", whole.Bytes(), again.Bytes(), err)
		}
	})
}

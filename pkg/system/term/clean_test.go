package term

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestCleanDropsTerminalControls(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"plain", "a b", "a b"},
		{"Japanese and emoji", "日本語 🎮👨‍👩‍👧", "日本語 🎮👨‍👩‍👧"},
		{"colour", "\x1b[1;31mred\x1b[0m", "red"},
		{"private mode", "\x1b[?25lx\x1b[?1049h", "x"},
		{"title, BEL", "\x1b]0;evil\x07ok", "ok"},
		{"title, ST", "\x1b]0;evil\x1b\\ok", "ok"},
		{"title, one-byte ST", "\x1b]0;evil\u009cok", "ok"},
		{"link", "\x1b]8;;http://evil\x07text\x1b]8;;\x07", "text"},
		{"device control", "\x1bPq#0\x1b\\ok", "ok"},
		{"charset", "\x1b(0ok", "ok"},
		{"C1 CSI", "\u009b31mok", "ok"},
		{"C1 OSC", "\u009d0;evil\x07ok", "ok"},
		{"raw C1 byte", "\x9b31mok", "\uFFFD31mok"},
		{"unfinished OSC hides nothing", "\x1b]0;text", "0;text"},
		{"unfinished CSI hides nothing", "\x1b[31", "31"},
		{"lone ESC", "a\x1b", "a"},
		{"line breaks and tabs", "a\r\nb\nc\td\re", "a b c d e"},
		{"line separators", "a\u2028b\u2029c", "a b c"},
		{"NUL, BEL, DEL, backspace", "a\x00b\x07c\x7fd\be", "abcde"},
		{"bidirectional override", "a\u202eb\u2066c\u200fd", "abcd"},
		{"broken UTF-8", "a\xffb", "a\uFFFDb"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := Clean(tt.in); got != tt.want {
				t.Errorf("Clean(%q) = %q, want %q", tt.in, got, tt.want)
			}
		})
	}
}

func TestCleanTakesLinearTime(t *testing.T) {
	for _, unit := range []string{"\x1b]", "\x1b[", "\u009b0", "\u009d", "\x1b]0;", "\x1b "} {
		start := time.Now()
		Clean(strings.Repeat(unit, 4<<20/len(unit)))
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("4 MiB of %q took %v", unit, d)
		}
	}
}

func FuzzClean(f *testing.F) {
	for _, s := range []string{"plain", "\x1b[31mred\x1b[0m", "\x1b]0;t\x07", "\x1b]0;t\x1b\\", "\u009b1mA\u009dx\u009c", "\xff\xfe", "\u202e", "a\r\nb\r", "\x1b\x1b[[", "\x1b]\x1b]\x1b\\"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := Clean(s)
		if !utf8.ValidString(got) || !isClean(got) {
			t.Errorf("Clean(%q) = %q, which is not clean", s, got)
		}
		if again := Clean(got); again != got {
			t.Errorf("Clean(%q) = %q, again %q", s, got, again)
		}
		if isClean(s) && got != s {
			t.Errorf("Clean changed clean text %q to %q", s, got)
		}
	})
}

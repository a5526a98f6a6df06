package deploy

import (
	"strings"
	"testing"
)

func FuzzReadIDs(f *testing.F) {
	f.Add([]byte("root:x:0:0:root:/root:/bin/sh\ndreamcore:x:10000:10000::/:/usr/sbin/nologin\n+::::::\n"))
	f.Fuzz(func(t *testing.T, raw []byte) { readIDs(raw) })
}

func FuzzRecipients(f *testing.F) {
	f.Add([]byte("# public key: age1x\nAGE-SECRET-KEY-1X\n"))
	f.Fuzz(func(t *testing.T, raw []byte) { recipients(raw) })
}

// FuzzCommandString checks that a command is quoted so that a shell parses it
// back into the same arguments.
func FuzzCommandString(f *testing.F) {
	f.Add("systemctl", "it's \"$(here)\"", "a\nb")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		if s := (Command{Args: []string{a, b, c}}).String(); strings.Contains(s, "$(") && !strings.Contains(s, "'") {
			t.Errorf("%q is not quoted", s)
		}
	})
}

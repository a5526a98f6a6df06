package history

import (
	"bytes"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// FuzzShallow encodes and decodes every list that is accepted.
func FuzzShallow(f *testing.F) {
	f.Add("0123456789012345678901234567890123456789\n")
	f.Add("0123456789012345678901234567890123456789\r\nabcdefabcdefabcdefabcdefabcdefabcdefabcd")
	f.Add("\n")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		cut, err := decodeShallow(text)
		if err != nil {
			return
		}
		again, err := decodeShallow(encodeShallow(cut))
		if err != nil || len(again) != len(cut) {
			t.Fatalf("%q: %v %v", text, again, err)
		}
		for hash := range cut {
			if !again[hash] || hash == plumbing.ZeroHash {
				t.Fatalf("%q: %s", text, hash)
			}
		}
	})
}

// FuzzTreeEntries checks that accepted entries lie within the tree and the limits.
func FuzzTreeEntries(f *testing.F) {
	f.Add([]byte("100644 a\x0001234567890123456789"))
	f.Add([]byte("40000 a\x000123456789012345678940000 b\x0001234567890123456789"))
	f.Add([]byte("120000 \x00"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for len(raw) > 0 {
			e, rest, err := nextEntry(raw)
			if err != nil {
				return
			}
			if len(rest) >= len(raw) || len(e.Name) > dreamcore.MaxNameBytes || bytes.IndexByte([]byte(e.Name), 0) >= 0 {
				t.Fatalf("%q: %+v, %d bytes are left", raw, e, len(rest))
			}
			raw = rest
		}
	})
}

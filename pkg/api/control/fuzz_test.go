package control

import (
	"bytes"
	"testing"
)

// FuzzLines splits arbitrary responses into lines.
func FuzzLines(f *testing.F) {
	f.Add([]byte("{\"out\":\"aGVsbG8=\"}\n{\"exit\":0}\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		total := 0
		_ = lines(bytes.NewReader(raw), func(line []byte) error {
			total += len(line)
			return nil
		})
		if total > len(raw) {
			t.Errorf("%d bytes of %d", total, len(raw))
		}
	})
}

package control

import (
	"bytes"
	"encoding/json"
	"testing"
)

// FuzzEach splits arbitrary responses into JSON values.
func FuzzEach(f *testing.F) {
	f.Add([]byte("{\"out\":\"aGVsbG8=\"}\n{\"exit\":0}\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		total := 0
		_ = each(bytes.NewReader(raw), func(line json.RawMessage) error {
			total += len(line)
			return nil
		})
		if total > len(raw) {
			t.Errorf("%d bytes of %d", total, len(raw))
		}
	})
}

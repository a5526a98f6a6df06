package secret

import (
	"strings"
	"testing"
)

func FuzzRedactor(f *testing.F) {
	f.Add("before ", "sk-ant-0123456789", " after")
	f.Add("", "line one is long enough\nline two is long enough", "")
	f.Fuzz(func(t *testing.T, before, value, after string) {
		var r Redactor
		r.Add(value)
		got := r.Redact(before + value + after)
		if len(value) >= minRedactedValue && strings.Contains(got, value) && !strings.Contains(Redacted, value) && strings.TrimSpace(value) == value {
			t.Errorf("%q is in %q", value, got)
		}
	})
}

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
		if len(value) < minRedactedValue || strings.TrimSpace(value) != value {
			return
		}
		// Only between the marks: together with their brackets, the text around
		// them can equal a value by chance.
		for _, left := range strings.Split(got, Redacted) {
			if strings.Contains(left, value) {
				t.Errorf("%q is in %q", value, got)
			}
		}
	})
}

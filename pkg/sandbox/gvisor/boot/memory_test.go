package boot

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestLimitMemory(t *testing.T) {
	dir := t.TempDir()
	bundle := func(note string) string {
		b := filepath.Join(dir, note)
		if err := os.Mkdir(b, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(b, memoryFile), []byte(note), 0o600); err != nil {
			t.Fatal(err)
		}
		return "--bundle=" + b
	}
	noted := "--bundle=" + t.TempDir()
	if err := WriteMemory(noted[len("--bundle="):], 2<<30); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name       string
		args, want []string
	}{
		{"the limit is less", []string{"x", "boot", noted, "--total-memory", "8589934592", "id"}, []string{"x", "boot", noted, "--total-memory", "2147483648", "id"}},
		{"the host has less", []string{"x", "boot", noted, "--total-memory", "1000"}, nil},
		{"missing bundle", []string{"x", "boot", "--bundle=/not/here", "--total-memory", "8589934592"}, nil},
		{"no memory flag", []string{"x", "boot", noted}, nil},
		{"a flag without its value", []string{"x", "boot", noted, "--total-memory"}, nil},
		{"not a number", []string{"x", "boot", noted, "--total-memory", "much"}, nil},
		{"a negative limit", []string{"x", bundle("-1"), "--total-memory", "1000"}, nil},
		{"a limit of zero", []string{"x", bundle("0"), "--total-memory", "1000"}, nil},
		{"no arguments", nil, nil},
	} {
		want := tt.want
		if want == nil {
			want = slices.Clone(tt.args)
		}
		if got := LimitMemory(tt.args); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", tt.name, got, want)
		}
	}
}

package commandline

import (
	"fmt"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Since parses a date (UTC), a time, or a duration before now.
func Since(s string, now, otherwise time.Time) (time.Time, error) {
	if s == "" {
		return otherwise, nil
	}
	for _, form := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(form, s); err == nil {
			return t, nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, &dreamcore.Error{
		Code: dreamcore.CodeInvalid, Message: fmt.Sprintf("invalid time %q in --since", s),
		Hint: "use a date like 2026-11-01, a time like 2026-11-01T12:00:00Z, or a time ago, like 24h",
	}
}

// WantsJSON reports whether args contain --json, as a flag of this program.
func WantsJSON(args []string) bool {
	for _, arg := range args {
		switch arg {
		case "--":
			return false
		case "--json", "--json=true":
			return true
		}
	}
	return false
}

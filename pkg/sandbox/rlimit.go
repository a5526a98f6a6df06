package sandbox

import (
	"fmt"
	"strconv"
	"strings"
)

// Rlimit is a limit, hard and soft, that the kernel enforces on every process of a
// sandbox.
type Rlimit struct {
	Name  string // as in "RLIMIT_NOFILE"
	Value uint64
}

// rlimitRole is the supervisor's argument before the limits.
const rlimitRole = "rlimits"

// RlimitArgs returns the arguments by which an engine that cannot set limits lets
// the supervisor set its own, which all programs inherit. They must precede those
// of the relay.
func RlimitArgs(limits []Rlimit) []string {
	if len(limits) == 0 {
		return nil
	}
	words := make([]string, len(limits))
	for i, l := range limits {
		words[i] = l.Name + "=" + strconv.FormatUint(l.Value, 10)
	}
	return []string{rlimitRole, strings.Join(words, ",")}
}

// ParseRlimits is the inverse of RlimitArgs. rest holds the arguments after the
// limits.
func ParseRlimits(args []string) (limits []Rlimit, rest []string, err error) {
	if len(args) == 0 || args[0] != rlimitRole {
		return nil, args, nil
	}
	if len(args) < 2 {
		return nil, nil, fmt.Errorf("no limits after %q", rlimitRole)
	}
	for word := range strings.SplitSeq(args[1], ",") {
		name, text, _ := strings.Cut(word, "=")
		value, err := strconv.ParseUint(text, 10, 64)
		if err != nil || name == "" {
			return nil, nil, fmt.Errorf("invalid limit %q", word)
		}
		limits = append(limits, Rlimit{Name: name, Value: value})
	}
	return limits, args[2:], nil
}

// Package pattern compiles regular expressions when they are first used. The program
// is started several times for each sandbox, and these starts use none of them.
package pattern

import (
	"regexp"
	"sync"
)

// New returns a function that returns the compiled expression. It panics if the
// expression is not valid.
func New(text string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(text) })
}

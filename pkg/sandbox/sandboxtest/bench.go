package sandboxtest

import (
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// Cold measures the time from Create to the first output of a program. The
// removal of the sandbox is not timed.
func Cold(b *testing.B, open Open) {
	p, root := open(b, b.TempDir())
	for b.Loop() {
		sb, err := p.Create(b.Context(), sandbox.Spec{Root: root})
		must(b, err)
		cat(b, sb)
		b.StopTimer()
		must(b, sb.Close(b.Context()))
		b.StartTimer()
	}
}

// Exec measures a program in a running sandbox.
func Exec(b *testing.B, open Open) {
	p, root := open(b, b.TempDir())
	sb, err := p.Create(b.Context(), sandbox.Spec{Root: root})
	must(b, err)
	for b.Loop() {
		cat(b, sb)
	}
}

func cat(t testing.TB, sb sandbox.Sandbox) {
	t.Helper()
	r := succeed(t, sb, sandbox.Command{Args: []string{"/bin/cat"}, UID: UID, GID: GID, Stdin: strings.NewReader("hello")})
	if r.out != "hello" {
		t.Fatalf("cat: %q", r.out)
	}
}

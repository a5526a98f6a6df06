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
		if err != nil {
			b.Fatal(err)
		}
		cat(b, sb)
		b.StopTimer()
		if err := sb.Close(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// Exec measures a program in a running sandbox.
func Exec(b *testing.B, open Open) {
	p, root := open(b, b.TempDir())
	sb, err := p.Create(b.Context(), sandbox.Spec{Root: root})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		cat(b, sb)
	}
}

func cat(t testing.TB, sb sandbox.Sandbox) {
	t.Helper()
	var out strings.Builder
	pr, err := sb.Start(t.Context(), sandbox.Command{Args: []string{"/bin/cat"}, UID: UID, GID: GID, Stdin: strings.NewReader("hello"), Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	if exit, err := pr.Wait(); err != nil || exit.Code != 0 || out.String() != "hello" {
		t.Fatalf("cat: %q, exit %+v, %v", out.String(), exit, err)
	}
}

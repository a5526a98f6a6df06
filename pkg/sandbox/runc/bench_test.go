package runc_test

import (
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

// BenchmarkCold is a sandbox from nothing to the first output of a program.
// The removal of the sandbox is not timed.
func BenchmarkCold(b *testing.B) {
	p, root := open(b, sandboxtest.Binary(b), b.TempDir())
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

// BenchmarkExec is a program in a sandbox that runs already.
func BenchmarkExec(b *testing.B) {
	p, root := open(b, sandboxtest.Binary(b), b.TempDir())
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
	pr, err := sb.Start(t.Context(), sandbox.Command{Args: []string{"/bin/cat"}, UID: 10000, GID: 10000, Stdin: strings.NewReader("hello"), Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	if exit, err := pr.Wait(); err != nil || exit.Code != 0 || out.String() != "hello" {
		t.Fatalf("cat: %q, exit %+v, %v", out.String(), exit, err)
	}
}

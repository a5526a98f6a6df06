package commandline

import "testing"

func TestTextCannotBecomeAMacro(t *testing.T) {
	p := &manWriter{}
	p.block(".so /etc/passwd\n'br\na \\n(.x -b")
	p.macro("B", `a "quoted" \word`)
	want := ".nf\n\\&.so /etc/passwd\n\\&'br\na \\en(.x \\-b\n.fi\n.B \"a \\(dqquoted\\(dq \\eword\"\n"
	if p.String() != want {
		t.Errorf("%q", p.String())
	}
}

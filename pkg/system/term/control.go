package term

import "io"

// WithoutControls returns a writer that keeps the output of an untrusted program
// from controlling a terminal. If w is not a terminal, it returns w.
func WithoutControls(w io.Writer, terminal bool) io.Writer {
	if !terminal {
		return w
	}
	return visible{w}
}

type visible struct{ w io.Writer }

// Write replaces control characters, with which escape sequences begin, by
// question marks. A C1 control in UTF-8 is two bytes, 0xc2 and the control.
func (v visible) Write(p []byte) (int, error) {
	shown := make([]byte, len(p))
	for i, b := range p {
		if b < ' ' && b != '\n' && b != '\t' && b != '\r' || b == 0x7f || b == 0xc2 {
			b = '?'
		}
		shown[i] = b
	}
	return v.w.Write(shown)
}

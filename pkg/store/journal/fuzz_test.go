package journal

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// FuzzReader reads arbitrary files: the events must be the whole lines that are no
// notes, numbered, and nothing after the last newline.
func FuzzReader(f *testing.F) {
	f.Add([]byte(""), uint16(0))
	f.Add([]byte("{\"type\":\"done\"}\n"), uint16(0))
	f.Add([]byte("{}\n{}\n{\"to"), uint16(1))
	f.Add([]byte("\n\n\x00\xff\n"), uint16(9))
	f.Add(append(bytes.Repeat([]byte("x"), 3*readBuffer), "\n{}\n"...), uint16(1))
	f.Add([]byte("#{}\n{}\n#x\n\n#{\"type\":\"done\"}\n#"), uint16(1))
	f.Add(append(bytes.Repeat([]byte("#"), 2*maxIdleBuffer), "\n{\"type\":\"done\"}\n#\n"...), uint16(0))
	s, dir := openStore(f, Options{})
	f.Fuzz(func(t *testing.T, data []byte, after uint16) {
		if err := os.WriteFile(filepath.Join(dir, jobA+extension), data, fileMode); err != nil {
			t.Fatal(err)
		}
		lines := bytes.Split(data, []byte{'\n'})
		lines = slices.DeleteFunc(lines[:len(lines)-1], isNote)
		got := drain(t, follow(t, s, jobA, uint64(after)))
		if want := max(0, len(lines)-int(after)); len(got) != want {
			t.Fatalf("%d events, want %d", len(got), want)
		}
		for _, e := range got {
			if !bytes.Equal(e.Event, lines[e.ID-1]) {
				t.Fatalf("event %d is %q, want %q", e.ID, e.Event, lines[e.ID-1])
			}
		}
		unfinished, err := s.Unfinished()
		if err != nil {
			t.Fatal(err)
		}
		ended := len(lines) > 0 && isTerminal(lines[len(lines)-1])
		if ended == (len(unfinished) == 1) {
			t.Fatalf("unfinished %v of %q", unfinished, data)
		}
		if ended {
			return
		}
		l, err := s.Reopen(jobA)
		if err != nil {
			t.Fatal(err)
		}
		id, err := l.Append(number(1))
		if err != nil || id != uint64(len(lines))+1 {
			t.Fatalf("id %d after %d lines: %v", id, len(lines), err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

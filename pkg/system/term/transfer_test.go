package term

import (
	"strings"
	"testing"
	"time"
)

func TestTransferWritesLinesAtIntervalsInAPipe(t *testing.T) {
	io, out, _ := Buffers("")
	line := io.Stdout().Transfer("Copying")
	line.every = 50 * time.Millisecond
	for range 100 {
		line.Show("Copying: too early")
	}
	time.Sleep(2 * line.every)
	line.Show("Copying: " + Bytes(1<<20, 4<<20))
	line.Show("Copying: too early")
	line.Stop()
	if got := out.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, "Copying: 1.0 MB of 4.2 MB") {
		t.Errorf("%q", got)
	}
	io, out, errOut := Buffers("")
	io.JSON = true
	line = io.Stderr().Transfer("Copying")
	line.every = 0
	line.Show("Copying: half")
	line.Stop()
	if out.String()+errOut.String() != "" {
		t.Errorf("a program reads %q%q", out, errOut)
	}
}

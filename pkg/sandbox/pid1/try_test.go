package pid1

import (
	"net"
	"os"
	"strings"
	"testing"
)

func TestTryReportsWhatOpens(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	open := "tcp=" + ln.Addr().String()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := "tcp=" + gone.Addr().String()
	_ = gone.Close()
	defer ln.Close()
	var out strings.Builder
	if err := Try([]string{LoopbackTry, open, closed, "udp=127.0.0.1:9", "tcp=nonsense", "other"}, &out); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	for i, want := range []string{LoopbackTry + ": opened", open + ": opened", closed + ": connection refused", "udp=127.0.0.1:9: opened", "tcp=nonsense: ", "other: unknown socket"} {
		if i >= len(lines) || !strings.HasPrefix(lines[i], want) {
			t.Errorf("line %d of %q, want %q", i, lines, want)
		}
	}
	// Root may open these, so a refusal elsewhere is meaningful.
	if os.Geteuid() == 0 {
		out.Reset()
		if err := Try([]string{"packet", "icmp", "raw"}, &out); err != nil || strings.Count(out.String(), ": opened") != 3 {
			t.Errorf("as root: %q, %v", out.String(), err)
		}
	}
}

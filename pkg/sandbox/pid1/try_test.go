package pid1

import (
	"net"
	"os"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
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
	try := func(endpoint string) string {
		var out strings.Builder
		if err := Try(endpoint, &out); err != nil {
			t.Error(err)
		}
		return out.String()
	}
	for endpoint, want := range map[string]string{
		sandbox.Loopback: "opened\n", open: "opened\n", closed: "connection refused\n", "udp=127.0.0.1:9": "opened\n", "tcp=nonsense": "", "other": "unknown socket",
	} {
		if got := try(endpoint); !strings.HasPrefix(got, endpoint+": "+want) {
			t.Errorf("%s prints %q, want %q", endpoint, got, want)
		}
	}
	// Root may open these, so a refusal elsewhere is meaningful.
	if os.Geteuid() == 0 {
		for _, endpoint := range []string{"packet", "icmp", "raw"} {
			if got := try(endpoint); got != endpoint+": opened\n" {
				t.Errorf("as root: %q", got)
			}
		}
	}
}

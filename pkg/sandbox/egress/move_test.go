package egress

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// side is an end of a tunnel whose slow writes accept two bytes and then time out.
type side struct {
	net.Conn // nil; not used
	text     io.Reader
	taken    []byte
	slow     int // number of writes that time out
}

func (s *side) Read(p []byte) (int, error)       { return s.text.Read(p[:min(4, len(p))]) }
func (s *side) SetReadDeadline(time.Time) error  { return nil }
func (s *side) SetWriteDeadline(time.Time) error { return nil }
func (s *side) CloseWrite() error                { return nil }

func (s *side) Write(p []byte) (int, error) {
	if s.slow > 0 {
		s.slow--
		s.taken = append(s.taken, p[:2]...)
		return 2, os.ErrDeadlineExceeded
	}
	s.taken = append(s.taken, p...)
	return len(p), nil
}

// If a host stops accepting data, the tunnel must end even if the host still
// sends: continuing would leave out bytes.
func TestTunnelNeverSkipsBytes(t *testing.T) {
	a := &attempt{session: &Session{socket: &Socket{proxy: &Proxy{cfg: Config{}.withDefaults()}}}}
	src, dst := &side{text: strings.NewReader("0123456789")}, &side{slow: 1}
	var count, last atomic.Int64
	last.Store(time.Now().UnixNano())
	cut := false
	err := a.move(dst, src, &count, &last, func() { cut = true })
	if !errors.Is(err, os.ErrDeadlineExceeded) || !cut || string(dst.taken) != "01" || count.Load() != 2 {
		t.Errorf("%q came through, %d counted, cut: %v, %v", dst.taken, count.Load(), cut, err)
	}
}

func TestInvalidSecretHintsAtTheCommand(t *testing.T) {
	policy, err := ParsePolicy([]string{"api.example.com"}, nil, []string{"api.example.com=token:Authorization:Bearer"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = New(Config{Policy: policy, Secret: func(Injection) (string, error) { return "short", nil }})
	if hint := dreamcore.HintOf(err); !strings.Contains(hint, "dreamcore secret create token KEY=value --force") {
		t.Errorf("%v: %q", err, hint)
	}
}

func TestSecretWithEscapedSlashIsRedacted(t *testing.T) {
	c := credential{forms: formsOf("to/ken/0123456789")}
	for _, text := range []string{"to/ken/0123456789", `to\/ken\/0123456789`, "to%2Fken%2F0123456789"} {
		got, err := io.ReadAll(c.redact(io.NopCloser(strings.NewReader("<"+text+">")), func() {}))
		if want := "<" + strings.Repeat("*", len(text)) + ">"; err != nil || string(got) != want {
			t.Errorf("%s became %s", text, got)
		}
	}
}

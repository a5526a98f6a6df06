package e2e

import (
	"net"
	"strings"
	"testing"
)

// A Go program that asks for SIGPIPE gets it for every closed connection.
func TestClosedConnectionsDoNotEndTheService(t *testing.T) {
	h := newHost(t)
	s := h.serve("--model-script", "demo")
	for range 20 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
		if err != nil {
			t.Fatalf("%v\n%s", err, s.log)
		}
		// Many unread answers, then the connection is reset.
		_, _ = conn.Write([]byte(strings.Repeat("GET /health HTTP/1.1\r\nHost: x\r\n\r\n", 200)))
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.Close()
	}
	// The model gateway, from a sandbox: a request whose connection closes at once.
	events := s.events("/generate_game", generateBody(alice, project, "a snake game"))
	if last := events[len(events)-1]; last["type"] != "done" {
		t.Errorf("%v", last)
	}
	hangUp := `for (1..20) { $s = IO::Socket::UNIX->new("/run/dreamcore/api.sock") or die; syswrite $s, "GET /x HTTP/1.1\r\nHost: x\r\n\r\n" x 50; close $s }`
	if r := h.run("sandbox", "exec", "user-"+alice, "--", "perl", "-MIO::Socket::UNIX", "-e", hangUp); r.code != 0 {
		t.Errorf("%+v", r)
	}
	if code, o := s.object("/test_auth", "{}"); code != 200 {
		t.Errorf("%d %v\n%s", code, o, s.log)
	}
}

func TestDeepGatesOfOurOwnService(t *testing.T) {
	h := newHost(t)
	r := h.run("gate", "key-leak", "other-user", "raw-sockets", "fork-bomb", "disk-fill", "symlink", "--model-script", "demo")
	if r.code != 0 || strings.Count(r.stdout, "pass ") != 6 {
		t.Errorf("exit code %d\n%s\n%s", r.code, r.stdout, r.stderr)
	}
}

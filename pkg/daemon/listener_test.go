package daemon

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// opened returns a listener and the descriptor that a supervisor would pass.
func opened(t *testing.T, network, address string) (net.Listener, *os.File) {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	f, err := ln.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	return ln, f
}

func TestInheritedSocketsAreAssignedByAddress(t *testing.T) {
	one, first := opened(t, "tcp", "127.0.0.1:0")
	two, second := opened(t, "tcp", "127.0.0.1:0")
	// The order is that of the supervisor, not ours.
	l, err := inheritListeners(t.Context(), []*os.File{second, first}, config.Config{Listen: one.Addr().String(), PreviewListen: two.Addr().String()})
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	if l.service.Addr().String() != one.Addr().String() || l.previews.Addr().String() != two.Addr().String() || !l.inherited() {
		t.Errorf("%v, %v", l.service.Addr(), l.previews.Addr())
	}
	for _, f := range []*os.File{first, second} {
		if err := f.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("a descriptor is still open: %v", err)
		}
	}
	// The supervisor's socket accepts after ours is closed.
	l.close()
	conn, err := net.Dial("tcp", one.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestInheritedSocketsThatFitNoSettingAreRefused(t *testing.T) {
	ln, file := opened(t, "tcp", "127.0.0.1:0")
	at := ln.Addr().String()
	_, other := opened(t, "tcp", "127.0.0.1:0")
	unixSocket, unixFile := opened(t, "unix", filepath.Join(t.TempDir(), "s"))
	conn, err := net.Dial("unix", unixSocket.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	connected, err := conn.(*net.UnixConn).File()
	if err != nil {
		t.Fatal(err)
	}
	plain, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(at)
	for name, tt := range map[string]struct {
		files []*os.File
		cfg   config.Config
		want  string
	}{
		"another address":   {[]*os.File{dup(t, file)}, config.Config{Listen: "127.0.0.2:" + port}, "bound to " + at + ", but listen is 127.0.0.2:" + port},
		"all addresses":     {[]*os.File{dup(t, file)}, config.Config{Listen: "0.0.0.0:" + port}, "bound to"},
		"another port":      {[]*os.File{dup(t, file)}, config.Config{Listen: "127.0.0.1:1", PreviewListen: "127.0.0.1:2"}, "listen is 127.0.0.1:1 and preview_listen is 127.0.0.1:2"},
		"the same twice":    {[]*os.File{dup(t, file), dup(t, file)}, config.Config{Listen: at}, "bound to"},
		"one too many":      {[]*os.File{dup(t, file), other}, config.Config{Listen: at}, "bound to"},
		"a local socket":    {[]*os.File{unixFile}, config.Config{Listen: at}, "not a listening TCP socket"},
		"a connection":      {[]*os.File{connected}, config.Config{Listen: at}, "not a listening TCP socket"},
		"a file":            {[]*os.File{plain}, config.Config{Listen: at}, "not a listening TCP socket"},
		"a name of nothing": {[]*os.File{dup(t, file)}, config.Config{Listen: "host.invalid:" + port}, "host.invalid"},
	} {
		_, err := inheritListeners(t.Context(), tt.files, tt.cfg)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
		if reason := dreamcore.ReasonOf(err); name != "a name of nothing" && reason != ReasonInherited {
			t.Errorf("%s: reason %q", name, reason)
		}
		for _, f := range tt.files {
			if err := f.Close(); !errors.Is(err, os.ErrClosed) {
				t.Errorf("%s: a descriptor is still open: %v", name, err)
			}
		}
	}
}

func dup(t *testing.T, f *os.File) *os.File {
	t.Helper()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), f.Name())
}

func TestBoundTo(t *testing.T) {
	at := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 80} }
	for _, tt := range []struct {
		have, address string
		want          bool
	}{
		{"127.0.0.1", "127.0.0.1:80", true},
		{"127.0.0.1", "127.0.0.1:0", true},
		{"127.0.0.1", "localhost:80", true},
		{"127.0.0.1", "127.0.0.1:81", false},
		{"127.0.0.1", "0.0.0.0:80", false},
		{"127.0.0.1", ":80", false},
		{"::", "127.0.0.1:80", false}, // open to more than the operator has configured
		{"0.0.0.0", "127.0.0.1:80", false},
		{"::", ":80", true},
		{"::", "0.0.0.0:80", true}, // Listen opens that for it, too
		{"0.0.0.0", "[::]:80", true},
		{"::1", "[::1]:80", true},
		{"fe80::1", "[fe80::1%eth0]:80", true},
	} {
		if got, err := boundTo(t.Context(), at(tt.have), tt.address); err != nil || got != tt.want {
			t.Errorf("%s for %s: %v, %v", tt.have, tt.address, got, err)
		}
	}
}

// With an inherited listener, a service waits for the one before it, and is refused
// like any other if that one does not end.
func TestAnInheritedListenerWaitsForTheLock(t *testing.T) {
	state := testState(t, nil)
	ln, _ := opened(t, "tcp", "127.0.0.1:0")
	var first Service
	if err := first.lock(state); err != nil {
		t.Fatal(err)
	}
	release := state.unlock
	state.unlock = nil
	if err := os.WriteFile(state.Path(lockFile), []byte("process 7, http://127.0.0.1:1, stopping\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	plain, second := Service{}, Service{listeners: listeners{service: ln}}
	if err := plain.takeOver(t.Context(), state, testLog()); dreamcore.CodeOf(err) != dreamcore.CodeConflict || !strings.Contains(err.Error(), "(process 7, http://127.0.0.1:1, stopping)") {
		t.Errorf("without an inherited listener: %v", err)
	}
	interrupted, cancel := context.WithCancelCause(t.Context())
	cancel(ErrInterrupted)
	if err := second.takeOver(interrupted, state, testLog()); !errors.Is(err, ErrInterrupted) {
		t.Errorf("interrupted: %v", err)
	}
	expired, stop := context.WithTimeoutCause(t.Context(), time.Nanosecond, statefile.ErrLocked)
	defer stop()
	<-expired.Done()
	if err := second.awaitLock(expired, state); dreamcore.CodeOf(err) != dreamcore.CodeConflict {
		t.Errorf("at the limit: %v", err)
	}
	taken := make(chan error, 1)
	go func() { taken <- second.takeOver(t.Context(), state, testLog()) }()
	release()
	if err := <-taken; err != nil || state.unlock == nil {
		t.Errorf("after the end of the first: %v", err)
	}
	state.release()
}

package pid1

import (
	"bytes"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// freePort returns an unused loopback port.
func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// relayed starts a relay to a socket whose connections are passed to serve.
func relayed(t *testing.T, serve func(*net.UnixConn)) (*relay, net.Addr) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			all.Go(func() { defer c.Close(); serve(c) })
		}
	})
	y, err := startRelay(sandbox.Relay{Port: freePort(t), Socket: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { y.close(); _ = l.Close(); all.Wait() })
	return y, y.listener.Addr()
}

func TestRelayCopiesBothWaysToTheEnd(t *testing.T) {
	_, addr := relayed(t, func(c *net.UnixConn) {
		b, _ := io.ReadAll(c) // the relay forwards the program's EOF
		_, _ = c.Write(bytes.ToUpper(b))
	})
	text := strings.Repeat("text ", 100000)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			c, err := net.Dial("tcp", addr.String())
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			_, _ = io.WriteString(c, text)
			_ = c.(*net.TCPConn).CloseWrite()
			if b, err := io.ReadAll(c); err != nil || string(b) != strings.ToUpper(text) {
				t.Errorf("%d bytes, %v", len(b), err)
			}
		})
	}
	all.Wait()
}

func TestRelayIsBoundedAndEnds(t *testing.T) {
	y, addr := relayed(t, func(c *net.UnixConn) { _, _ = io.Copy(io.Discard, c) })
	dial := func() net.Conn {
		c, err := net.Dial("tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		return c
	}
	conns := []net.Conn{}
	for range relayConns {
		conns = append(conns, dial())
	}
	for end := time.Now().Add(10 * time.Second); len(y.slots) < relayConns && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if n, err := dial().Read(make([]byte, 1)); err == nil {
		t.Errorf("connection over the limit: read %d bytes", n)
	}
	_ = conns[0].Close()
	for end := time.Now().Add(10 * time.Second); len(y.slots) == relayConns && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	c := dial()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	y.close()
	if _, err := conns[1].Read(make([]byte, 1)); err == nil {
		t.Error("a connection survived the relay")
	}
}

func TestRelayWithoutItsSocket(t *testing.T) {
	y, err := startRelay(sandbox.Relay{Port: freePort(t), Socket: "/nowhere/s"})
	if err != nil {
		t.Fatal(err)
	}
	defer y.close()
	c, err := net.Dial("tcp", y.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("%d", n)
	}
	// The port is in use, so a second relay does not start.
	port := uint16(y.listener.Addr().(*net.TCPAddr).Port)
	if _, err := startRelay(sandbox.Relay{Port: port, Socket: "/nowhere/s"}); err == nil {
		t.Error("two relays on one port")
	}
	if y, err := startRelay(sandbox.Relay{}); y != nil || err != nil {
		t.Error(y, err)
	}
}

func TestMainRefusesOtherArguments(t *testing.T) {
	for _, args := range [][]string{{"relay"}, {"relay", "x", "/s"}, {"relay", "3128", "s"}, {"relay", "80", "/s"}, {"other", "3128", "/s"}, {"relay", "70000", "/s"}} {
		if err := Main(args); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%q: %v", args, err)
		}
	}
}

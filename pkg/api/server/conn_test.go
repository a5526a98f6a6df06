package server

import (
	"bufio"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
)

// TestVanishedClientIsNoticed takes down the network between a client and the
// service, so that the connection ends without any packet.
func TestVanishedClientIsNoticed(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, for a network namespace")
	runtime.LockOSThread() // never unlocked: the thread and its network end with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		sandboxtest.Need(t, false, "a network namespace")
	}
	setLoopback(t, true)
	end := make(chan struct{})
	sv := start(t, options{
		config: func(c *Config) {
			c.Limits.WriteTimeout, c.Limits.KeepAlive, c.Limits.GraceLimit = time.Second, 100*time.Millisecond, time.Millisecond
		},
		run: func(log *journal.Log) {
			_, _ = log.Append(dreamcore.StatusEvent("ready"))
			<-end
		},
	})
	defer close(end)
	conn := sv.raw(head("/generate_game", secret, "Content-Length: "+itoa(len(generateBody))) + generateBody)
	if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	setLoopback(t, false)
	select {
	case <-sv.generator.listener(0).Done():
	case <-time.After(30 * time.Second):
		t.Error("the client still counts as a listener")
	}
}

// setLoopback switches the loopback device of this thread's network namespace.
func setLoopback(t *testing.T, up bool) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	device, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	if up {
		device.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, device); err != nil {
		t.Fatal(err)
	}
}

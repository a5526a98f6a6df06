package sandboxtest

import (
	"context"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

func testClean(t *testing.T, sb sandbox.Sandbox) {
	t.Run("processes end and selected files are removed", func(t *testing.T) {
		out := newLine()
		cmd := script(`cd /tmp && mkdir -p empty/a/b special/p other && echo x >other/file &&
			echo x >empty/a/b/file && ln -s /tmp/other empty/link && mkdir empty/closed && echo x >empty/closed/file && chmod 0 empty/closed &&
			mkfifo empty/fifo special/p/fifo && echo x >special/p/file && ln -s /tmp/other special/link &&
			{ setsid sleep 1001 & echo ready; sleep 1002; }`)
		cmd.Stdout = out
		p := start(t, sb, cmd)
		await(t, out.seen, "the program")
		residue := sandbox.Residue{UID: UID, GID: GID, Empty: []string{"/tmp/empty", "/tmp/missing"}, Special: []string{"/tmp/special", "/tmp/missing"}}
		if err := sb.Clean(bounded(t), residue); err != nil {
			t.Fatalf("Clean: %v", err)
		}
		_, _ = wait(t, p)
		if got := sh(t, sb, processes); got != "" {
			t.Errorf("processes after Clean: %s", got)
		}
		const want = "/tmp/empty\n/tmp/other\n/tmp/other/file\n/tmp/special\n/tmp/special/link\n/tmp/special/p\n/tmp/special/p/file\n"
		if got := sh(t, sb, "find /tmp/empty /tmp/special /tmp/other | LC_ALL=C sort"); got != want {
			t.Errorf("files after Clean:\n%s", got)
		}
	})
	t.Run("files of another user are an error", func(t *testing.T) {
		sh(t, sb, "mkdir -p /tmp/mine && echo x >/tmp/mine/file")
		err := sb.Clean(bounded(t), sandbox.Residue{UID: UID + 1, GID: GID + 1, Empty: []string{"/tmp/mine"}})
		if err == nil {
			t.Error("Clean as another user: no error")
		}
		if got := sh(t, sb, "cat /tmp/mine/file"); got != "x\n" {
			t.Errorf("the file after it: %q", got)
		}
	})
	t.Run("nothing to remove", func(t *testing.T) {
		if err := sb.Clean(bounded(t), sandbox.Residue{UID: UID, GID: GID}); err != nil {
			t.Errorf("Clean: %v", err)
		}
	})
}

func testReach(t *testing.T, sb sandbox.Sandbox) {
	for _, endpoint := range []string{sandbox.Loopback, "tcp=192.0.2.1:80", "udp=192.0.2.1:53", "tcp=[2001:db8::1]:80", "packet", "icmp", "raw", "vsock"} {
		got, err := sb.Reach(bounded(t), UID, GID, endpoint)
		if err != nil || got == "" || (got == sandbox.Opened) != (endpoint == sandbox.Loopback) {
			t.Errorf("Reach %s: %q, %v", endpoint, got, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := sb.Reach(ctx, UID, GID, sandbox.Loopback); err == nil {
		t.Errorf("Reach after the end of the context: %q", got)
	}
}

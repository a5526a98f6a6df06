package sandboxtest

import (
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

func testClean(t *testing.T, sb sandbox.Sandbox) {
	t.Run("processes end and selected files are removed", func(t *testing.T) {
		p, _ := begin(t, sb, `cd /tmp && mkdir -p empty/a/b special/p other && echo x >other/file &&
			echo x >empty/a/b/file && ln -s /tmp/other empty/link && mkdir empty/closed && echo x >empty/closed/file && chmod 0 empty/closed &&
			mkfifo empty/fifo special/p/fifo && echo x >special/p/file && ln -s /tmp/other special/link &&
			{ setsid sleep 1001 & echo ready; sleep 1002; }`)
		residue := sandbox.Residue{Owners: []sandbox.Owner{{UID: UID, GID: GID}}, Empty: []string{"/tmp/empty", "/tmp/missing"}, Special: []string{"/tmp/special", "/tmp/missing"}}
		must(t, sb.Clean(bounded(t), residue))
		_, _ = wait(t, p)
		prints(t, sb, processes, "")
		prints(t, sb, "find /tmp/empty /tmp/special /tmp/other | LC_ALL=C sort",
			"/tmp/empty\n/tmp/other\n/tmp/other/file\n/tmp/special\n/tmp/special/link\n/tmp/special/p\n/tmp/special/p/file\n")
	})
	t.Run("files of users in each other's directories", func(t *testing.T) {
		const other = UID + 500
		sh(t, sb, "umask 0; mkdir -p /tmp/two/mine")
		runAs(t, sb, other, "umask 0; mkdir -p /tmp/two/mine/theirs && echo x >/tmp/two/mine/theirs/file")
		sh(t, sb, "mkdir /tmp/two/mine/theirs/again && echo x >/tmp/two/mine/theirs/again/file")
		owners := []sandbox.Owner{{UID: UID, GID: GID}, {UID: other, GID: GID}}
		must(t, sb.Clean(bounded(t), sandbox.Residue{Owners: owners, Empty: []string{"/tmp/two"}}))
		prints(t, sb, "find /tmp/two", "/tmp/two\n")
	})
	t.Run("files of another user are an error", func(t *testing.T) {
		sh(t, sb, "mkdir -p /tmp/mine && echo x >/tmp/mine/file")
		err := sb.Clean(bounded(t), sandbox.Residue{Owners: []sandbox.Owner{{UID: UID + 1, GID: GID + 1}}, Empty: []string{"/tmp/mine"}})
		if err == nil {
			t.Error("Clean as another user: no error")
		}
		prints(t, sb, "cat /tmp/mine/file", "x\n")
	})
	t.Run("nothing to remove", func(t *testing.T) {
		noError(t, "Clean", sb.Clean(bounded(t), sandbox.Residue{Owners: []sandbox.Owner{{UID: UID, GID: GID}}}))
	})
}

func testReach(t *testing.T, sb sandbox.Sandbox) {
	for _, endpoint := range []string{sandbox.Loopback, "tcp=192.0.2.1:80", "udp=192.0.2.1:53", "tcp=[2001:db8::1]:80", "packet", "icmp", "raw", "vsock"} {
		got, err := sb.Reach(bounded(t), UID, GID, endpoint)
		if err != nil || got == "" || (got == sandbox.Opened) != (endpoint == sandbox.Loopback) {
			t.Errorf("Reach %s: %q, %v", endpoint, got, err)
		}
	}
	if got, err := sb.Reach(ended(t), UID, GID, sandbox.Loopback); err == nil {
		t.Errorf("Reach after the end of the context: %q", got)
	}
}

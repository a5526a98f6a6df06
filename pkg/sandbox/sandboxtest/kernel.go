package sandboxtest

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// The kernel limits many resources per user, in sums that no cgroup knows. Each
// attack takes and holds all that it can get of one resource; the host's own
// users, and another sandbox, must still get some of it.

// prelude has the functions that the Perl programs share: sending descriptors,
// which then are in flight, and queueing signals.
var prelude = fmt.Sprintf(`use Socket; $| = 1;
sub watch { my $fd = syscall(%d, 0); return if $fd < 0; return $fd }
sub fly { my ($to, $fd, $n) = @_;
	my $data = "x"; my $iov = pack("PQ", $data, 1);
	my $cmsg = pack("Q i i i*", 16+4*$n, 1, 1, ($fd) x $n); $cmsg .= "\0" while length($cmsg) %% 8;
	my $msg = pack("Q L x4 P Q P Q i x4", 0, 0, $iov, 1, $cmsg, length($cmsg), 0);
	return syscall(%d, fileno($to), $msg, 0x40) >= 0 }
sub hold { my $set = pack("Q", 1 << 39); syscall(%d, 0, $set, 0, 8) } # blocks the signal 40
sub queue { my $info = pack("i i i x4 i i x104", 40, 0, -1, $$, $<); return syscall(%d, $$, 40, $info) >= 0 }
`, unix.SYS_INOTIFY_INIT1, unix.SYS_SENDMSG, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGQUEUEINFO)

// hogs are the attacks. Each prints what it got, and waits to be killed.
var hogs = []struct{ name, program string }{
	{"inotify instances", `for (1..1000) { defined(my $fd = watch()) or last; $n++ }`},
	{"inotify instances of root inside", `for (1..1000) { defined(my $fd = watch()) or last; $n++ }`},
	{"pages of pipes", `for (1..1900) { pipe(my $r, my $w) or last; push @all, $r, $w; fcntl($w, 1031, 1 << 20); $n++ }`},
	{"descriptors in flight", `open(my $f, "<", "/dev/null"); for (1..200) { socketpair(my $a, my $b, AF_UNIX, SOCK_DGRAM, 0) or last; push @all, $a, $b;
		while ($n < 20000 && fly($a, fileno($f), 250)) { $n += 250 } }`},
	{"signals that wait", `hold(); for (1..100000) { queue() or last; $n++ }`},
	{"signals that wait, of many processes", `for (1..30) { my $pid = fork(); last if !defined($pid); if (!$pid) { hold(); for (1..100000) { queue() or last } sleep 1000 } $n++ }`},
	{"terminals", `for (1..3500) { open(my $f, "+<", "/dev/ptmx") or last; push @all, $f; $n++ }`},
	{"processes", `for (1..1000) { my $pid = fork(); last if !defined($pid); if (!$pid) { sleep 1000; exit } $n++ }`},
	{"locked memory", `for (1..1000) { my $s = "x" x 65536; last if syscall(` + fmt.Sprint(unix.SYS_MLOCK) + `, $s, 65536) < 0; push @all, $s; $n++ }`},
}

// modest takes one of each resource, and prints those that it does not get.
const modest = `defined(watch()) or print "inotify: $!\n";
pipe(my $r, my $w) or print "pipe: $!\n"; my $size = fcntl($w, 1032, 0); $size >= 65536 or print "a pipe of $size bytes\n";
socketpair(my $a, my $b, AF_UNIX, SOCK_DGRAM, 0) or print "socketpair: $!\n"; fly($a, fileno($r), 3) or print "descriptors: $!\n";
hold(); queue() or print "signal: $!\n";
open(my $t, "+<", "/dev/ptmx") or print "terminal: $!\n";
defined(my $pid = fork()) or print "fork: $!\n"; exit if defined($pid) && !$pid;
wait; print "fine\n";`

// testKernelLimits runs the attacks.
func testKernelLimits(t *testing.T, r *rig) {
	neighbour := r.create(t, r.spec())
	for _, hog := range hogs {
		t.Run(hog.name, func(t *testing.T) {
			sb, err := r.provider.Create(bounded(t), r.spec())
			must(t, err)
			defer func() { noError(t, "Close", sb.Close(bounded(t))) }()
			out := newLine()
			cmd := sandbox.Command{Args: []string{"/usr/bin/perl", "-e", prelude + "$n = 0; " + hog.program + ` print "$n $!\n"; sleep 1000`}, UID: UID, GID: GID, Stdout: out}
			if strings.HasSuffix(hog.name, "root inside") {
				cmd.UID, cmd.GID = 0, 0
			}
			p := start(t, sb, cmd)
			await(t, out.seen, "the attack")
			t.Logf("taken: %s", strings.TrimSpace(out.String()))
			if got := run(t, neighbour, sandbox.Command{Args: []string{"/usr/bin/perl", "-e", prelude + modest}, UID: UID, GID: GID}); got.out != "fine\n" {
				t.Errorf("another sandbox: %s%s", got.out, got.err)
			}
			for _, uid := range []uint32{0, UID} {
				if got := onHost(uid); got != "fine\n" {
					t.Errorf("the user %d of the host: %s", uid, got)
				}
			}
			noError(t, "EndAll", sb.EndAll(bounded(t)))
			_, _ = wait(t, p)
		})
	}
}

// onHost runs modest on the host.
func onHost(uid uint32) string {
	var out bytes.Buffer
	cmd := exec.Command("/usr/bin/perl", "-e", prelude+modest)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	if err := cmd.Run(); err != nil {
		return out.String() + err.Error()
	}
	return out.String()
}

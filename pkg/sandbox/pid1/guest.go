package pid1

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// signalLimit bounds how long the host waits for a signal to be delivered.
const signalLimit = 10 * time.Second

// past is a deadline that has passed: it wakes a blocked read.
var past = time.Unix(1, 0)

// drainLimit is how long the output of an ended program may stay open in the
// hands of processes it left behind before it is cut off.
const drainLimit = 250 * time.Millisecond

// Serve is the supervisor: it carries out orders from conn until it closes,
// then kills every process that is left. It returns only when the sandbox is
// to end. It refuses to run as anything but PID 1: on a host it would kill
// every process of the machine. A relay, where there is one, is there before
// the host gets any answer, so that no program can take its port.
func Serve(conn io.ReadWriteCloser, r sandbox.Relay) error {
	if pid := os.Getpid(); pid != 1 {
		return fmt.Errorf("this is the supervisor of a sandbox and runs as process 1 only, not as %d", pid)
	}
	if err := becomeRoot(); err != nil {
		return fmt.Errorf("PID 1: %w", err)
	}
	relay, err := startRelay(r)
	if err != nil {
		return fmt.Errorf("PID 1: %w", err)
	}
	defer relay.close()
	// The talk may be standard output, and Go ends a program that writes to a
	// broken one. It must end as below instead. Ignoring the signal would pass
	// on to programs.
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, syscall.SIGPIPE)
	defer signal.Stop(broken)
	// No time limit: the host may take long to read the last output of a
	// program, and always closes in the end.
	session, err := yamux.Server(conn, sessionConfig(0))
	if err != nil {
		return fmt.Errorf("PID 1: %w", err)
	}
	s := &supervisor{family: newFamily(), running: map[uint64]int{}}
	defer s.family.close()
	var streams sync.WaitGroup
	for {
		stream, err := session.AcceptStream()
		if err != nil {
			break // the host has closed the talk, or died
		}
		streams.Go(func() {
			defer stream.Close()
			s.handle(stream)
		})
	}
	if err := s.family.endAll(time.Now().Add(5 * time.Second)); err != nil {
		return fmt.Errorf("PID 1: %w", err) // their streams would not end either
	}
	streams.Wait()
	return nil
}

// becomeRoot makes the supervisor root, where the engine had to start it as the
// user of the programs: they could kill and trace it.
func becomeRoot() error {
	if os.Getuid() == 0 && os.Getgid() == 0 {
		return nil
	}
	if err := syscall.Setgid(0); err != nil {
		return fmt.Errorf("become root's group: %w", err)
	}
	if err := syscall.Setuid(0); err != nil {
		return fmt.Errorf("become root: %w", err)
	}
	// What was inheritable to come this far is not for programs.
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&header, &caps[0]); err != nil {
		return fmt.Errorf("read the capabilities: %w", err)
	}
	caps[0].Inheritable, caps[1].Inheritable = 0, 0
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&caps[0])), 0)
	if errno != 0 {
		return fmt.Errorf("give up inheritable capabilities: %w", errno)
	}
	return nil
}

// Stdio is the connection that PID 1 was given: its standard input and output.
type Stdio struct{ In, Out *os.File }

func (s Stdio) Read(p []byte) (int, error)  { return s.In.Read(p) }
func (s Stdio) Write(p []byte) (int, error) { return s.Out.Write(p) }

// Close closes both ends.
func (s Stdio) Close() error { return errors.Join(s.In.Close(), s.Out.Close()) }

type supervisor struct {
	family *family

	mu      sync.Mutex
	running map[uint64]int // process group of each program by its handle
}

func (s *supervisor) handle(stream *yamux.Stream) {
	fr := newFrames(stream)
	k, payload, err := fr.read(maxOrder)
	if err != nil || k != kindOrder {
		_ = fr.writeJSON(kindFailed, failure{Message: "no order came"})
		return
	}
	var o order
	if err := json.Unmarshal(payload, &o); err != nil {
		_ = fr.writeJSON(kindFailed, failure{Message: "malformed order: " + err.Error()})
		return
	}
	switch o.Op {
	case opStart:
		err = s.start(fr, o)
	case opSignal:
		err = s.signal(o)
	case opEndAll:
		err = s.family.endAll(time.Now().Add(signalLimit))
	default:
		err = fmt.Errorf("unknown order %q", o.Op)
	}
	switch {
	case err != nil:
		_ = fr.writeJSON(kindFailed, failure{Message: err.Error()})
	case o.Op != opStart:
		_ = fr.write(kindDone, nil)
	}
}

// signal sends a signal to the group of a program. A program that has ended is
// no error: it is what the caller wanted, or too late to matter.
func (s *supervisor) signal(o order) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	pid, ok := s.running[o.Handle]
	if !ok {
		return nil
	}
	sig := syscall.Signal(o.Signal)
	err := syscall.Kill(-pid, sig)
	// A process that is forking while its group is killed may leave a child
	// that the signal has missed. The group's number is taken for as long as
	// it has a member.
	for range killAgain {
		if sig != syscall.SIGKILL || err != nil {
			break
		}
		time.Sleep(time.Millisecond)
		err = syscall.Kill(-pid, sig)
	}
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

// killAgain bounds how often a group is killed until nobody is left in it.
const killAgain = 20

// start runs a program to its end. An error means that it did not start.
func (s *supervisor) start(fr *frames, o order) error {
	if len(o.Args) == 0 {
		return errors.New("no program named")
	}
	path, err := lookPath(o.Args[0], o.Env)
	if err != nil {
		return err
	}
	pipes, err := newPipes()
	if err != nil {
		return err
	}
	defer pipes.close()
	if err := pipes.giveTo(o.UID, o.GID); err != nil {
		return err
	}
	child, err := s.family.start(path, o, pipes.theirs())
	if err != nil {
		return explain(path, o.Dir, err)
	}
	s.mu.Lock()
	s.running[o.Handle] = child.pid
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.running, o.Handle)
		s.mu.Unlock()
	}()
	pipes.closeTheirs()
	if err := fr.write(kindStarted, nil); err != nil {
		_ = syscall.Kill(-child.pid, syscall.SIGKILL)
	}
	s.attend(fr, child, pipes)
	return nil
}

// attend moves bytes until the program has ended and its output is drained,
// then reports the exit.
func (s *supervisor) attend(fr *frames, c *child, p *pipes) {
	var out sync.WaitGroup
	out.Go(func() { drain(fr, kindStdout, p.stdout) })
	out.Go(func() { drain(fr, kindStderr, p.stderr) })
	go feedStdin(fr, c, p.stdin) // ends with the stream, which the caller closes

	status := <-c.ended
	drained := make(chan struct{})
	go func() { out.Wait(); close(drained) }()
	select {
	case <-drained:
	case <-time.After(drainLimit):
		// A process that the program left behind holds its output open.
		_ = p.stdout.SetReadDeadline(past)
		_ = p.stderr.SetReadDeadline(past)
		<-drained
	}
	_ = fr.writeJSON(kindExit, report(status))
}

// drain sends what comes out of a pipe until its last holder has closed it,
// nobody reads any more, or a deadline cuts it off. A program that still
// writes then gets EPIPE.
func drain(fr *frames, k kind, r *os.File) {
	defer r.Close()
	reading, sending := fr.copyIn(k, r)
	if sending != nil || !errors.Is(reading, os.ErrDeadlineExceeded) {
		return
	}
	// The program has ended. What it wrote is in the pipe still when the host
	// is slow; what others write after this moment is not its output.
	if err := r.SetReadDeadline(time.Time{}); err == nil {
		_, _ = fr.copyIn(k, io.LimitReader(r, int64(pending(r))))
	}
}

// pending is how many bytes are in a pipe: TIOCINQ is FIONREAD by another name.
func pending(r *os.File) (n int) {
	raw, err := r.SyscallConn()
	if err != nil {
		return 0
	}
	if cerr := raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }); cerr != nil || err != nil {
		return 0
	}
	return n
}

// feedStdin gives the program what the host sends. When the host goes away
// while the program runs, the program is killed.
func feedStdin(fr *frames, c *child, stdin *os.File) {
	defer stdin.Close()
	for {
		k, payload, err := fr.read(MaxFrame)
		switch {
		case err != nil:
			c.killUnlessEnded()
			return
		case k == kindStdin:
			// A program that does not read its input is its own business.
			_, _ = stdin.Write(payload)
		case k == kindEOF:
			_ = stdin.Close()
		}
	}
}

func report(ws syscall.WaitStatus) exitReport {
	if ws.Signaled() {
		return exitReport{Code: 128 + int(ws.Signal()), Signal: int(ws.Signal())}
	}
	return exitReport{Code: ws.ExitStatus()}
}

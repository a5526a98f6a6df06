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

// drainLimit is how long the output of an ended program may be held open by
// processes that it left behind before it is cut off.
const drainLimit = 250 * time.Millisecond

// Serve runs the supervisor: it carries out orders from conn until conn closes,
// then kills all remaining processes. It returns only when the sandbox is to
// end. It refuses to run as any process but PID 1: on a host it would kill every
// process. The relay, if r is set, listens before the host gets any answer, so
// no program can take its port first.
func Serve(conn io.ReadWriteCloser, r sandbox.Relay) error {
	if pid := os.Getpid(); pid != 1 {
		return fmt.Errorf("the supervisor of a sandbox runs as process 1 only, not as %d", pid)
	}
	if err := becomeRoot(); err != nil {
		return fmt.Errorf("PID 1: %w", err)
	}
	relay, err := startRelay(r)
	if err != nil {
		return fmt.Errorf("PID 1: %w", err)
	}
	defer relay.close()
	// conn may be standard output, and Go ends a program that writes to a
	// broken one. The supervisor must shut down as below instead. Ignoring the
	// signal would be inherited by programs.
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, syscall.SIGPIPE)
	defer signal.Stop(broken)
	// No time limit: the host may take long to read the last output of a
	// program, and always closes the stream eventually.
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
			break // the host closed the connection, or died
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

// becomeRoot makes the supervisor root if the engine had to start it as the
// same user as the programs, which could otherwise kill and trace it.
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
	// Capabilities that were inheritable to get here must not reach programs.
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&header, &caps[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	caps[0].Inheritable, caps[1].Inheritable = 0, 0
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&caps[0])), 0)
	if errno != 0 {
		return fmt.Errorf("drop inheritable capabilities: %w", errno)
	}
	return nil
}

// Stdio is PID 1's connection to the host: its standard input and output.
type Stdio struct{ In, Out *os.File }

func (s Stdio) Read(p []byte) (int, error)  { return s.In.Read(p) }
func (s Stdio) Write(p []byte) (int, error) { return s.Out.Write(p) }

// Close closes both ends.
func (s Stdio) Close() error { return errors.Join(s.In.Close(), s.Out.Close()) }

type supervisor struct {
	family *family

	mu      sync.Mutex
	running map[uint64]int // process groups by handle of the program
}

// handle carries out the order of one stream. An answer that cannot be written has
// no reader any more: the host closed the stream, or died.
func (s *supervisor) handle(stream *yamux.Stream) {
	fr := newFrames(stream)
	k, payload, err := fr.read(maxOrder)
	if err != nil || k != kindOrder {
		_ = fr.writeJSON(kindFailed, failure{Message: "no order received"})
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
	case opEndUser:
		err = s.family.endUser(o.UID, time.Now().Add(signalLimit))
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

// signal signals the process group of a program. If the program has ended,
// signal returns nil.
func (s *supervisor) signal(o order) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	pid, ok := s.running[o.Handle]
	if !ok {
		return nil
	}
	sig := syscall.Signal(o.Signal)
	err := syscall.Kill(-pid, sig)
	// A process that is forking while its group is killed may leave a child that
	// missed the signal. The group id is not reused while the group has a member.
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

// killAgain bounds how often the kill of a non-empty group is repeated.
const killAgain = 20

// start runs a program to its end. An error means that it did not start.
func (s *supervisor) start(fr *frames, o order) error {
	if len(o.Args) == 0 {
		return errors.New("no program given")
	}
	path, err := lookPath(o.Args[0], o.Env)
	if err != nil {
		return err
	}
	pipes, err := newStreams(o)
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
	if !pipes.terminal {
		pipes.closeTheirs()
	}
	if err := fr.write(kindStarted, nil); err != nil {
		_ = syscall.Kill(-child.pid, syscall.SIGKILL) // fails only if it has ended
	}
	s.attend(fr, child, pipes)
	return nil
}

// attend copies the program's streams until it has ended and its output is
// drained, then reports the exit.
func (s *supervisor) attend(fr *frames, c *child, p *pipes) {
	var out sync.WaitGroup
	out.Go(func() { drain(fr, kindStdout, p.stdout) })
	if !p.terminal {
		out.Go(func() { drain(fr, kindStderr, p.stderr) })
	}
	go feedStdin(fr, c, p) // ends with the stream, which the caller closes

	status := <-c.ended
	p.closeTheirs() // of a terminal
	drained := make(chan struct{})
	go func() { out.Wait(); close(drained) }()
	select {
	case <-drained:
	case <-time.After(drainLimit):
		// A process that the program left behind still holds its output open.
		_ = p.stdout.SetReadDeadline(past)
		_ = p.stderr.SetReadDeadline(past)
		<-drained
	}
	_ = fr.writeJSON(kindExit, report(status))
}

// drain sends a pipe's contents until all its writers have closed it, the host
// stops reading, or a deadline cuts it off. A program that still writes then
// gets EPIPE.
func drain(fr *frames, k kind, r *os.File) {
	defer r.Close()
	reading, sending := fr.copyIn(k, r)
	if sending != nil || !errors.Is(reading, os.ErrDeadlineExceeded) {
		return
	}
	// The program has ended. If the host is slow, the program's last output is
	// still in the pipe; what other processes write from now on is not its output.
	if err := r.SetReadDeadline(time.Time{}); err == nil {
		_, _ = fr.copyIn(k, io.LimitReader(r, int64(Pending(r))))
	}
}

// Pending returns the number of bytes in a pipe. TIOCINQ equals FIONREAD.
func Pending(r *os.File) (n int) {
	raw, err := r.SyscallConn()
	if err != nil {
		return 0
	}
	if cerr := raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }); cerr != nil || err != nil {
		return 0
	}
	return n
}

// feedStdin writes the host's frames to the program's standard input. If the
// stream fails while the program runs, the program is killed.
func feedStdin(fr *frames, c *child, p *pipes) {
	stdin := p.stdin
	defer stdin.Close()
	for {
		k, payload, err := fr.read(MaxFrame)
		switch {
		case err != nil:
			c.killUnlessEnded()
			return
		case k == kindStdin:
			// An error means that the program does not read its input, which is allowed.
			_, _ = stdin.Write(payload)
		case k == kindWindow && p.terminal:
			if w, ok := decodeWindow(payload); ok {
				_ = setSize(stdin, w) // fails only if the terminal is closed
			}
		case k == kindEOF && p.terminal:
			_, _ = stdin.Write([]byte{endOfFile}) // as above
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

package pid1

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// endOfFile is Ctrl-D, with which a terminal ends the input of a program that reads
// lines.
const endOfFile = 0x04

// newTerminal returns the streams of a program that has a terminal of its own. stdin
// and stdout are the supervisor's side of it; there is no stderr. The program's side
// stays open until the program has ended: without it, a program that opens its
// terminal again would find it hung up.
func newTerminal(size sandbox.Window) (*pipes, error) {
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	p := &pipes{stdin: ours, stdout: ours, terminal: true}
	var n int
	err = control(ours, func(fd int) error {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return err
		}
		n, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
		return err
	})
	if err == nil {
		err = setSize(ours, size)
	}
	var theirs *os.File
	if err == nil {
		theirs, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|syscall.O_NOCTTY, 0)
	}
	if err != nil {
		p.close()
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	p.child = [3]*os.File{theirs, theirs, theirs}
	return p, nil
}

func setSize(terminal *os.File, size sandbox.Window) error {
	return control(terminal, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Columns})
	})
}

// control calls do with the descriptor of f, which keeps its deadlines: Fd would
// turn them off.
func control(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = do(int(fd)) }); err != nil {
		return err
	}
	return failed
}

// encodeWindow returns the payload of a frame of kindWindow.
func encodeWindow(w sandbox.Window) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, w.Columns), w.Rows)
}

// decodeWindow is the reverse of encodeWindow. It reports false for any other
// length.
func decodeWindow(payload []byte) (w sandbox.Window, ok bool) {
	if len(payload) != 4 {
		return w, false
	}
	return sandbox.Window{Columns: binary.BigEndian.Uint16(payload), Rows: binary.BigEndian.Uint16(payload[2:])}, true
}

// followWindow sends the sizes of the caller's window until the program has ended.
func (p *process) followWindow() {
	for {
		select {
		case w, ok := <-p.cmd.Terminal.Resized:
			if !ok || p.frames.write(kindWindow, encodeWindow(w)) != nil {
				return
			}
		case <-p.done:
			return
		}
	}
}

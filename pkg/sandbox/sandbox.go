// Package sandbox is the contract of a sandbox engine: what the product may
// request from gVisor, runc or a cluster, and what it gets back. The engines are
// in subpackages and pass the suite in sandboxtest.
//
// Provider.Create creates a sandbox from a Spec. Its only program is PID 1, our
// supervisor, until the caller starts others, one after another or concurrently:
//
//	sb, err := provider.Create(ctx, spec)
//	if err != nil { … }                 // nothing is left behind
//	defer sb.Close(context.WithoutCancel(ctx))
//	p, err := sb.Start(ctx, sandbox.Command{Args: []string{"/bin/cat"}, Stdin: r, Stdout: w})
//	if err != nil { … }
//	exit, err := p.Wait()
//
// The output of a program is hostile in content, size and timing: the caller must
// bound it.
package sandbox

import (
	"context"
	"errors"
	"io"
	"syscall"
)

// ErrLost is in the chain of every error that is due to the end of the sandbox
// itself: killed, out of memory, or closed.
var ErrLost = errors.New("sandbox has ended")

// ErrOutOfMemory is in the chain together with ErrLost when the sandbox was killed
// because it used up its memory.
var ErrOutOfMemory = errors.New("out of memory")

// Provider creates sandboxes with one engine. Its methods are safe for
// concurrent use.
type Provider interface {
	// Name returns the engine's name as flags spell it: "gvisor", "runc".
	Name() string
	// Create starts a sandbox and returns when programs can be started in it.
	// After an error nothing is left: no process, mount, cgroup or file. The
	// caller must Close the sandbox.
	Create(ctx context.Context, spec Spec) (Sandbox, error)
	// Close ends every remaining sandbox and frees what the provider holds on
	// the machine.
	Close(ctx context.Context) error
}

// Sandbox is one running sandbox. Its methods are safe for concurrent use.
type Sandbox interface {
	// ID returns a name that is unique on the machine and has a fixed length.
	ID() string
	// Start starts a program. An error that wraps ErrLost means that the sandbox
	// has ended; any other error means that the program could not be started.
	// When ctx ends, the program and its process group are killed.
	Start(ctx context.Context, cmd Command) (Process, error)
	// EndAll kills every process inside except PID 1 and returns when they
	// have ended.
	EndAll(ctx context.Context) error
	// EndUser kills every process of the user uid and returns when they have
	// ended. Processes of other users live on. The user must not be root, and
	// must not be able to become another one: it has no privileges inside.
	EndUser(ctx context.Context, uid uint32) error
	// Clean prepares the sandbox for the next job of the same user: it ends
	// every process, then removes what the user's programs left in it. After an
	// error, residue may remain and the sandbox must not be used again.
	Clean(ctx context.Context, residue Residue) error
	// Reach tries, as user uid inside, to open or connect the socket that
	// endpoint names, and returns Opened or the text of the kernel's error. The
	// endpoints are Loopback, "packet", "icmp", "raw", "vsock", "tcp=ADDR:PORT"
	// and "udp=ADDR:PORT". An error means that the attempt could not be made.
	Reach(ctx context.Context, uid, gid uint32, endpoint string) (string, error)
	// Lost returns a channel that is closed when the sandbox has ended, by Close
	// or by itself.
	Lost() <-chan struct{}
	// Close ends the sandbox and removes every trace of it: processes, mounts,
	// cgroup, sockets, files. It may be called more than once; after an error it
	// retries.
	Close(ctx context.Context) error
}

// Binder is a Sandbox that mounts directories after its start. It is implemented
// where Provider.BindsLate, if there is such a method, reports true.
type Binder interface {
	// Bind mounts directories of the host below those of Spec.Late and makes the
	// missing directories on the way, which belong to root. Programs see them from
	// then on by their paths; what is open, or the working directory of a program, is
	// still what was there before. A mount without a source is refused. The caller
	// must make sure that no hostile program has run in the sandbox. After an error the
	// sandbox must not be used.
	Bind(ctx context.Context, mounts []Mount) error
}

// Residue selects what Sandbox.Clean removes. Links are removed, never
// followed. Directories that do not exist are skipped.
type Residue struct {
	Owners []Owner  // the users inside who own the files
	Empty  []string // directories inside whose whole content is removed
	// Special are directories inside of which only FIFOs, sockets and devices
	// are removed. An engine may keep these inside, where the host does not see
	// them, and a program of the next job that opens one blocks forever.
	Special []string
}

// Owner is a user inside of a sandbox, with the group of its programs.
type Owner struct{ UID, GID uint32 }

const (
	// Opened is the result of Sandbox.Reach for a socket that was opened, and
	// connected where it has an address.
	Opened = "opened"
	// Loopback is the endpoint of a listener inside the sandbox. It is reached
	// wherever sockets work at all.
	Loopback = "loopback"
)

// Process is a program that was started in a sandbox.
type Process interface {
	// Signal sends a signal to the program's process group.
	Signal(sig syscall.Signal) error
	// Wait returns when the program has ended and its output is written. An
	// error means that the exit is unknown: the sandbox was lost (ErrLost), or
	// reading the input or writing the output failed, in which case the program
	// was killed. Wait may be called more than once.
	Wait() (Exit, error)
}

// Command is a program to start.
type Command struct {
	Args []string // Args[0] is an absolute path, or a name looked up in PATH of Env
	Env  []string // "KEY=value"; the complete environment
	Dir  string   // working directory inside; default "/"
	UID  uint32   // user inside
	GID  uint32   // group inside, the only one

	// Stdin is read until EOF or until the program ends. Wait does not wait for
	// a Read that is then in progress. An error kills the program. If nil, the
	// input is empty.
	Stdin io.Reader
	// Stdout and Stderr are never written to concurrently, so they may be the
	// same writer. An error kills the program. If nil, the output is discarded.
	Stdout io.Writer
	Stderr io.Writer

	// Terminal, if set, gives the program a terminal inside for its three streams:
	// Stdin has the keys, and Ctrl-D at its end; Stdout gets what the terminal
	// shows, and Stderr nothing. At the program's end the terminal is gone for those
	// that it left behind.
	Terminal *Terminal
}

// Terminal is the terminal of a program.
type Terminal struct {
	Size    Window
	Resized <-chan Window // each value is a new size; may be nil
}

// Window is the size of a terminal in characters.
type Window struct{ Columns, Rows uint16 }

// Exit is how a program ended.
type Exit struct {
	Code   int            // exit code; 128+Signal if a signal ended it
	Signal syscall.Signal // 0 if the program ended by itself
}

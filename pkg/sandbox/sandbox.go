// Package sandbox is the contract of a sandbox engine: what the product may
// ask of gVisor, runc or a cluster, and what it gets back. Engines live in
// packages below it and pass the suite in sandboxtest.
//
// A sandbox is made by Provider.Create from a Spec and holds no program of
// its own but PID 1, our supervisor. Programs are started in it one by one or
// side by side:
//
//	sb, err := provider.Create(ctx, spec)
//	if err != nil { … }                 // nothing is left behind
//	defer sb.Close(context.WithoutCancel(ctx))
//	p, err := sb.Start(ctx, sandbox.Command{Args: []string{"/bin/cat"}, Stdin: r, Stdout: w})
//	if err != nil { … }
//	exit, err := p.Wait()
//
// What a program writes, how much and when is hostile: the caller bounds it.
package sandbox

import (
	"context"
	"errors"
	"io"
	"syscall"
)

// ErrLost is in the chain of every error that comes from the sandbox itself
// having ended: killed, out of memory, or closed.
var ErrLost = errors.New("sandbox has ended")

// ErrOutOfMemory is in the chain beside ErrLost when the sandbox was killed
// because it used up its memory.
var ErrOutOfMemory = errors.New("out of memory")

// Provider makes sandboxes with one engine. Its methods are safe for
// concurrent use.
type Provider interface {
	// Name is the engine's name as flags spell it: "gvisor", "runc".
	Name() string
	// Create starts a sandbox and returns once programs can be started in it.
	// On an error nothing is left: no process, mount, cgroup or file. The
	// caller must Close the sandbox.
	Create(ctx context.Context, spec Spec) (Sandbox, error)
	// Close ends every sandbox that is still there and frees what the
	// provider holds on the machine.
	Close(ctx context.Context) error
}

// Sandbox is one running sandbox. Its methods are safe for concurrent use.
type Sandbox interface {
	// ID is unique on the machine and of a fixed length.
	ID() string
	// Start starts a program. An error that wraps ErrLost means that the
	// sandbox has ended; any other, that the program could not be started.
	// When ctx ends, the program and its process group are killed.
	Start(ctx context.Context, cmd Command) (Process, error)
	// EndAll kills every process inside except PID 1 and returns when they
	// have ended.
	EndAll(ctx context.Context) error
	// Clean prepares the sandbox for the next job of the same user: it ends
	// every process, then removes what the user's programs left in it. After an
	// error, residue may remain and the sandbox must not be used again.
	Clean(ctx context.Context, residue Residue) error
	// Reach tries, as user uid inside, to open or connect the socket that
	// endpoint names, and returns Opened or the text of the kernel's error. The
	// endpoints are Loopback, "packet", "icmp", "raw", "vsock", "tcp=ADDR:PORT"
	// and "udp=ADDR:PORT". An error means that the attempt could not be made.
	Reach(ctx context.Context, uid, gid uint32, endpoint string) (string, error)
	// Lost is closed when the sandbox has ended, by Close or by itself.
	Lost() <-chan struct{}
	// Close ends the sandbox and removes every trace of it: processes,
	// mounts, cgroup, sockets, files. It may be called more than once, and
	// after an error it tries again.
	Close(ctx context.Context) error
}

// Residue selects what Sandbox.Clean removes. Links are removed, never
// followed. Directories that do not exist are skipped.
type Residue struct {
	UID, GID uint32   // the user inside who owns the files
	Empty    []string // directories inside whose whole content is removed
	// Special are directories inside of which only FIFOs, sockets and devices
	// are removed. An engine may keep these inside, where the host does not see
	// them, and a program of the next job that opens one blocks forever.
	Special []string
}

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
	// error means that the exit is not known: the sandbox was lost (ErrLost),
	// or reading the input or writing the output failed, in which case the
	// program was killed. Wait may be called more than once.
	Wait() (Exit, error)
}

// Command is a program to start.
type Command struct {
	Args []string // Args[0] is an absolute path, or a name looked up in PATH of Env
	Env  []string // "KEY=value"; nothing is added
	Dir  string   // working directory inside; "" means "/"
	UID  uint32   // user inside
	GID  uint32   // group inside, the only one

	// Stdin is read until EOF or until the program ends; one more Read may be
	// under way then, which Wait does not wait for. An error kills the program.
	// Nil is empty.
	Stdin io.Reader
	// Stdout and Stderr are never written to at the same time, so they may be
	// one writer. An error kills the program. Nil is thrown away.
	Stdout io.Writer
	Stderr io.Writer
}

// Exit tells how a program ended.
type Exit struct {
	Code   int            // exit code; 128+Signal when a signal ended it
	Signal syscall.Signal // 0 when the program ended by itself
}

package pid1

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// family tracks the children of PID 1. PID 1 inherits every orphan and must
// reap it, so os/exec, which waits only for its own children, cannot be used.
type family struct {
	signals chan os.Signal
	quit    chan struct{}
	reaper  sync.WaitGroup

	mu       sync.Mutex // held during fork and reap, so that no exit is missed
	children map[int]*child
	users    map[uint32]bool // of whom a program was started
}

// child is a program that the host started.
type child struct {
	pid   int
	ended chan syscall.WaitStatus // gets one value

	mu   sync.Mutex
	over bool // reaped; the pid may have been reused
}

// killUnlessEnded kills the child's process group. It does nothing once the
// child was reaped, because the pid may then be another process.
func (c *child) killUnlessEnded() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		_ = syscall.Kill(-c.pid, syscall.SIGKILL)
	}
}

func newFamily() *family {
	f := &family{
		signals:  make(chan os.Signal, 1),
		quit:     make(chan struct{}),
		children: map[int]*child{},
		users:    map[uint32]bool{},
	}
	signal.Notify(f.signals, syscall.SIGCHLD)
	f.reaper.Go(func() {
		for {
			select {
			case <-f.signals:
				for more := true; more; {
					_, more = f.reap()
				}
			case <-f.quit:
				return
			}
		}
	})
	return f
}

func (f *family) close() {
	signal.Stop(f.signals)
	close(f.quit)
	f.reaper.Wait()
}

func (f *family) start(path string, o order, files []uintptr) (*child, error) {
	dir := o.Dir
	if dir == "" {
		dir = "/"
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.users[o.UID] = true
	pid, err := syscall.ForkExec(path, o.Args, &syscall.ProcAttr{
		Dir: dir, Env: o.Env, Files: files,
		Sys: &syscall.SysProcAttr{
			Setsid:     true,              // a session of its own, so the whole group can be killed
			Setctty:    o.Terminal != nil, // standard input, which is descriptor 0 there
			Credential: &syscall.Credential{Uid: o.UID, Gid: o.GID},
		},
	})
	if err != nil {
		return nil, err
	}
	c := &child{pid: pid, ended: make(chan syscall.WaitStatus, 1)}
	f.children[pid] = c
	return c, nil
}

// reapAtOnce bounds how many children reap collects at once: programs that
// multiply end as fast as they are collected, and other callers need the lock.
const reapAtOnce = 64

// reap collects children that have ended and notifies those that wait for them.
// It reports whether children are left, and whether more of them may have
// ended.
func (f *family) reap() (left, more bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for range reapAtOnce {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil: // ECHILD
			return false, false
		case pid == 0:
			return true, false
		}
		c, ok := f.children[pid]
		if !ok {
			continue // an orphan
		}
		delete(f.children, pid)
		c.mu.Lock()
		c.over = true
		c.mu.Unlock()
		c.ended <- ws
	}
	return true, true
}

// endAll kills every process but PID 1 until none is left. New children cannot
// escape: those of other processes are reparented to PID 1 when their parent
// dies, and are killed in the next round.
func (f *family) endAll(deadline time.Time) error {
	for {
		err := syscall.Kill(-1, syscall.SIGKILL)
		if err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill every process: %w", err)
		}
		left, more := f.reap()
		switch {
		case !left:
			return nil
		case time.Now().After(deadline):
			return errLives
		case !more:
			time.Sleep(time.Millisecond)
		}
	}
}

// pipes are the three standard streams of a child, both ends of each.
type pipes struct {
	stdin, stdout, stderr *os.File
	child                 [3]*os.File
	terminal              bool // see newTerminal
}

// newStreams returns the streams that an order asks for.
func newStreams(o order) (*pipes, error) {
	if o.Terminal != nil {
		return newTerminal(*o.Terminal)
	}
	return newPipes()
}

func newPipes() (*pipes, error) {
	p := &pipes{}
	var err error
	if p.child[0], p.stdin, err = os.Pipe(); err == nil {
		if p.stdout, p.child[1], err = os.Pipe(); err == nil {
			p.stderr, p.child[2], err = os.Pipe()
		}
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// giveTo makes the child's ends belong to its user, so that it can reopen them
// by name, such as /dev/stdout.
func (p *pipes) giveTo(uid, gid uint32) error {
	for _, f := range p.child {
		if err := f.Chown(int(uid), int(gid)); err != nil {
			return err
		}
	}
	return nil
}

func (p *pipes) theirs() []uintptr {
	return []uintptr{p.child[0].Fd(), p.child[1].Fd(), p.child[2].Fd()}
}

func (p *pipes) closeTheirs() {
	for _, f := range p.child {
		_ = f.Close()
	}
}

// close closes the pipes that are open.
func (p *pipes) close() {
	p.closeTheirs()
	for _, f := range []*os.File{p.stdin, p.stdout, p.stderr} {
		_ = f.Close()
	}
}

// explain names what could not be started. The kernel returns the same error
// for a missing program and for a missing working directory.
func explain(path, dir string, err error) error {
	if dir != "" {
		switch fi, derr := os.Stat(dir); {
		case derr != nil:
			return fmt.Errorf("working directory: %w", derr)
		case !fi.IsDir():
			return fmt.Errorf("working directory: %s is not a directory", dir)
		}
	}
	return fmt.Errorf("%s: %w", path, err)
}

// lookPath finds a program as execvp does, in the PATH of the program's own
// environment.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, kv := range env {
		list, ok := strings.CutPrefix(kv, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range filepath.SplitList(list) {
			path := filepath.Join(dir, name)
			if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("%s: not found in PATH", name)
}

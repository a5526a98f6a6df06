package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// A job may still write this much into a project that has reached its limit, so
// that an agent can start there and remove something.
const (
	slackBytes = 2 << 20
	slackFiles = 100
)

// fullBytes is the free space below which a file system counts as full.
const fullBytes = 64 << 10

// Guard keeps a project within its limits while a job writes to it.
//
// Where users have file systems of their own, the kernel enforces the limit of
// bytes: the Guard allocates the free space of the user's file system, except for
// what the project may still take, to an unnamed file (the reserve), which costs
// no space on the machine and ends with the process. Programs get ENOSPC at the
// limit. The limit of files is compared with the number of files in the file
// system. Elsewhere the project is measured repeatedly.
type Guard struct {
	store   *Store
	project *os.Root
	release func()
	reserve *os.File // nil without a limit of bytes, or without a file system of the user
	top     *os.Root // of the user's file system; nil without a disk limit

	mu      sync.Mutex
	files   uint64 // that the user's file system may have in use; 0 means no limit; guarded by mu
	changes int    // of the user's other projects that are running; guarded by mu
	before  uint64 // files in use when the first of them began; guarded by mu
	closed  bool   // guarded by mu

	once sync.Once
}

// Full reports which limits of a project have been reached.
type Full struct {
	Bytes    bool // no more can be written
	Files    bool // there are too many
	Enforced bool // the kernel refuses further writes; if false, the caller must stop the writer
}

// Any reports whether any limit has been reached.
func (f Full) Any() bool { return f.Bytes || f.Files }

// Guard begins to keep a project within its limits. CodeTooLarge: the free space
// of the user's file system keeps changing. The caller must Close the Guard before
// the project.
func (s *Store) Guard(ctx context.Context, user dreamcore.UserID, p *Project) (_ *Guard, err error) {
	g := &Guard{store: s, project: p.root, release: func() {}}
	if s.disks == nil {
		return g, nil
	}
	if g.top, g.release, err = s.openUser(ctx, user, true); err != nil {
		return nil, s.UserError("open the disk of the user", err)
	}
	if err := g.begin(ctx); err != nil {
		return nil, errors.Join(s.UserError("set the limit of the project", err), g.Close())
	}
	s.guards.add(g, user)
	return g, nil
}

func (g *Guard) begin(ctx context.Context) error {
	o := g.store.opts
	if o.ProjectBytes == 0 && o.ProjectFiles == 0 {
		return nil
	}
	var u tree.Usage
	if err := u.Measure(ctx, g.project); err != nil {
		return err
	}
	if o.ProjectFiles > 0 {
		st, err := g.statfs()
		if err != nil {
			return err
		}
		g.files = st.Files - st.Ffree + uint64(max(o.ProjectFiles-u.Files, slackFiles))
	}
	if o.ProjectBytes == 0 {
		return nil
	}
	// Another project of the user may be changing meanwhile.
	const tries = 5
	for try := 1; ; try++ {
		err := g.allocate(max(o.ProjectBytes-u.Bytes, slackBytes))
		if err == nil || try == tries || !errors.Is(err, syscall.ENOSPC) {
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// allocate allocates all free space except for left bytes to the reserve.
func (g *Guard) allocate(left int64) error {
	st, err := g.statfs()
	if err != nil {
		return err
	}
	size := int64(st.Bavail)*st.Bsize - left
	if size <= 0 {
		return nil
	}
	g.reserve, err = allocate(g.top, size)
	return err
}

func (g *Guard) statfs() (st unix.Statfs_t, err error) {
	dir, err := g.top.Open(".")
	if err != nil {
		return st, err
	}
	defer dir.Close()
	return st, os.NewSyscallError("fstatfs", unix.Fstatfs(int(dir.Fd()), &st))
}

// Check reports which limits the project has reached. Without a file system of
// the user it walks through the whole project, so it should be called less often
// the longer it takes.
func (g *Guard) Check(ctx context.Context) (Full, error) {
	if g.top == nil {
		return g.walk(ctx)
	}
	st, err := g.statfs()
	if err != nil {
		return Full{}, tree.DiskError("check the disk of the user", err)
	}
	f := Full{Enforced: true, Bytes: int64(st.Bavail)*st.Bsize < fullBytes, Files: st.Ffree == 0}
	g.mu.Lock()
	defer g.mu.Unlock()
	if used := st.Files - st.Ffree; !f.Files && g.files > 0 && g.changes == 0 && used > g.files {
		f.Files, f.Enforced = true, false
	}
	return f, nil
}

func (g *Guard) walk(ctx context.Context) (Full, error) {
	o := g.store.opts
	if o.ProjectBytes == 0 && o.ProjectFiles == 0 {
		return Full{}, nil
	}
	var u tree.Usage
	if err := u.Measure(ctx, g.project); err != nil {
		return Full{}, fmt.Errorf("measure the project: %w", err)
	}
	return o.full(u), nil
}

// Close releases the reserve. It may be called more than once.
func (g *Guard) Close() (err error) {
	g.once.Do(func() {
		g.store.guards.remove(g)
		g.mu.Lock()
		defer g.mu.Unlock()
		g.closed = true
		if g.reserve != nil {
			err = g.reserve.Close()
		}
		if g.top != nil {
			err = errors.Join(err, g.top.Close())
		}
		g.release()
	})
	return err
}

// FitsProject reports whether usage is within the limits of a project.
func (s *Store) FitsProject(usage tree.Usage) bool {
	return !s.opts.full(usage).Any()
}

func (o Options) full(u tree.Usage) Full {
	return Full{Bytes: o.ProjectBytes > 0 && u.Bytes > o.ProjectBytes, Files: o.ProjectFiles > 0 && u.Files > o.ProjectFiles}
}

package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// What a job may still write into a project that is at its bound, so that an
// agent can start there and remove something.
const (
	slackBytes = 2 << 20
	slackFiles = 100
)

// fullBytes is what is left of a file system that is as good as full.
const fullBytes = 64 << 10

// usage is what a tree takes.
type usage struct {
	bytes int64 // on disk: a sparse file counts for what it has
	files int   // names of any kind
	seen  map[uint64]bool
}

// add counts one name. A file of several names takes its bytes once.
func (u *usage) add(info fs.FileInfo) {
	u.files++
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return
	}
	if !info.IsDir() && st.Nlink > 1 {
		if u.seen[st.Ino] {
			return
		}
		if u.seen == nil {
			u.seen = map[uint64]bool{}
		}
		u.seen[st.Ino] = true
	}
	u.bytes += st.Blocks * 512
}

// measure adds what is below dir, as far as it can be read and is not too much
// to be counted. dir is a project at depth 1.
func (u *usage) measure(ctx context.Context, dir *os.Root, depth int) error {
	if depth > maxLinkDepth || u.files > MaxEntries {
		return nil
	}
	if depth == 1 {
		u.leaveOutSkills(dir)
	}
	d, err := dir.Open(".")
	if err != nil {
		return nil // removed meanwhile, or closed to us
	}
	defer d.Close()
	for {
		names, err := d.Readdirnames(1024)
		for _, name := range names {
			if err := ctx.Err(); err != nil {
				return err
			}
			info, err := dir.Lstat(name)
			if err != nil {
				continue
			}
			u.add(info)
			if !info.IsDir() {
				continue
			}
			sub, err := openDir(dir, name)
			if err != nil {
				continue
			}
			err = errors.Join(u.measure(ctx, sub, depth+1), sub.Close())
			if err != nil {
				return err
			}
		}
		if err != nil { // io.EOF, or what nobody can read
			return nil
		}
	}
}

// leaveOutSkills subtracts what measure will count and is no part of the project.
func (u *usage) leaveOutSkills(project *os.Root) {
	sub, err := openDir(project, dreamcore.ConfigDir)
	if err != nil {
		return
	}
	defer sub.Close()
	if !isJobs(sub, path.Base(dreamcore.SkillsLink), dreamcore.SkillsLink) {
		return
	}
	u.files-- // a link as short takes no block
	if isJobs(project, dreamcore.ConfigDir, dreamcore.ConfigDir) {
		u.files--
		if info, err := sub.Stat("."); err == nil {
			u.bytes -= info.Sys().(*syscall.Stat_t).Blocks * 512
		}
	}
}

// Guard keeps a project within its bounds while a job writes to it.
//
// Where users have file systems of their own, the kernel does it: of the free
// space of the user's file system all but what the project may still take is
// set aside in a file without a name, which costs no space on the machine and
// is gone with the process that holds it. Programs see ENOSPC at the bound. The
// number of files is compared with that of the file system. Elsewhere the
// project is measured again and again.
type Guard struct {
	store   *Store
	project *os.Root
	release func()
	reserve *os.File // what is set aside; nil: nothing, or no file system of the user
	top     *os.Root // of the user's file system; nil: he has none

	mu     sync.Mutex
	files  uint64 // how many his file system may have in use; 0: no bound; guarded by mu
	beside int    // changes of his other projects that are made now; guarded by mu
	before uint64 // files in use when the first of them began; guarded by mu
	closed bool   // guarded by mu

	once sync.Once
}

// Full says which bounds are reached.
type Full struct {
	Bytes bool // no more can be written
	Files bool // there are too many
	Kept  bool // the kernel does not let more be written; else whoever writes must be stopped
}

// Any tells whether there is one.
func (f Full) Any() bool { return f.Bytes || f.Files }

// Guard begins to keep a project within its bounds; CodeTooLarge: the space of
// the user changes all the time. The caller must Close it before the project.
func (s *Store) Guard(ctx context.Context, user dreamcore.UserID, p *Project) (_ *Guard, err error) {
	g := &Guard{store: s, project: p.root, release: func() {}}
	if s.disks == nil {
		return g, nil
	}
	if g.top, g.release, err = s.openUser(ctx, user, true); err != nil {
		return nil, s.userError("open the disk of the user", err)
	}
	if err := g.begin(ctx); err != nil {
		return nil, errors.Join(s.userError("set the bound of the project", err), g.Close())
	}
	s.guards.enlist(g, string(user))
	return g, nil
}

func (g *Guard) begin(ctx context.Context) error {
	o := g.store.opts
	if o.ProjectBytes == 0 && o.ProjectFiles == 0 {
		return nil
	}
	var u usage
	if err := u.measure(ctx, g.project, 1); err != nil {
		return err
	}
	if o.ProjectFiles > 0 {
		st, err := g.statfs()
		if err != nil {
			return err
		}
		g.files = st.Files - st.Ffree + uint64(max(o.ProjectFiles-u.files, slackFiles))
	}
	if o.ProjectBytes == 0 {
		return nil
	}
	// Somebody may be changing another project of the user meanwhile.
	const tries = 5
	for try := 1; ; try++ {
		err := g.setAside(max(o.ProjectBytes-u.bytes, slackBytes))
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

// setAside takes all free space but left bytes of it.
func (g *Guard) setAside(left int64) error {
	st, err := g.statfs()
	if err != nil {
		return err
	}
	size := int64(st.Bavail)*st.Bsize - left
	if size <= 0 {
		return nil
	}
	dir, err := g.top.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	fd, err := unix.Openat(int(dir.Fd()), ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, fileMode)
	if err != nil {
		return os.NewSyscallError("openat", err)
	}
	f := os.NewFile(uintptr(fd), "reserve")
	for {
		err = unix.Fallocate(fd, 0, 0, size)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return errors.Join(os.NewSyscallError("fallocate", err), f.Close())
	}
	g.reserve = f
	return nil
}

func (g *Guard) statfs() (st unix.Statfs_t, err error) {
	dir, err := g.top.Open(".")
	if err != nil {
		return st, err
	}
	defer dir.Close()
	return st, os.NewSyscallError("fstatfs", unix.Fstatfs(int(dir.Fd()), &st))
}

// Look tells whether the project is at its bounds. Without a file system of the
// user it takes a walk through the project, so it is to be called less often
// the longer it takes.
func (g *Guard) Look(ctx context.Context) (Full, error) {
	if g.top == nil {
		return g.walk(ctx)
	}
	st, err := g.statfs()
	if err != nil {
		return Full{}, diskError("look at the disk of the user", err)
	}
	f := Full{Kept: true, Bytes: int64(st.Bavail)*st.Bsize < fullBytes, Files: st.Ffree == 0}
	g.mu.Lock()
	defer g.mu.Unlock()
	if used := st.Files - st.Ffree; !f.Files && g.files > 0 && g.beside == 0 && used > g.files {
		f.Files, f.Kept = true, false
	}
	return f, nil
}

func (g *Guard) walk(ctx context.Context) (Full, error) {
	o := g.store.opts
	if o.ProjectBytes == 0 && o.ProjectFiles == 0 {
		return Full{}, nil
	}
	var u usage
	if err := u.measure(ctx, g.project, 1); err != nil {
		return Full{}, fmt.Errorf("measure the project: %w", err)
	}
	return Full{Bytes: o.ProjectBytes > 0 && u.bytes > o.ProjectBytes, Files: o.ProjectFiles > 0 && u.files > o.ProjectFiles}, nil
}

// Close gives back what was set aside. It may be called more than once.
func (g *Guard) Close() (err error) {
	g.once.Do(func() {
		g.store.guards.dismiss(g)
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

// checkGrown refuses a new state of a project that is beyond a bound and larger
// than the old one: what makes it smaller is always allowed.
func (a *apply) checkGrown(added int64, files int) error {
	o := a.store.opts
	within := func(bytes int64, files int) bool {
		return (o.ProjectBytes == 0 || bytes <= o.ProjectBytes) && (o.ProjectFiles == 0 || files <= o.ProjectFiles)
	}
	if within(a.before.bytes+added, a.before.files+files) {
		return nil
	}
	var after usage
	if err := after.measure(a.ctx, a.fresh, 1); err != nil {
		return err
	}
	if within(after.bytes, after.files) || after.bytes <= a.before.bytes && after.files <= a.before.files {
		return nil
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeTooLarge, Message: "the project would be larger than a project may be",
		Hint: "remove files of it, or set project_mib or project_files to more",
	}
}

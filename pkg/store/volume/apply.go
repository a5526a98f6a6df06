package volume

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Change is what becomes of one file of a project.
type Change struct {
	Path string // relative to the project, with slashes
	// Write writes the new content; it may be called twice. nil: the file is
	// removed. A file that is not there is removed too.
	Write func(io.Writer) error
}

// Content is the Write of a Change to text that is in memory.
func Content(text string) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.WriteString(w, text)
		return err
	}
}

// Apply makes all changes of a project, or none: readers, sandboxes and
// whoever comes after a crash see the project as it was or as it is to be. It
// returns the sizes of the files, 0 for one that is removed. The project is
// made where it is missing. The caller holds its Lock.
//
// The new state is built beside the project, from hard links to everything
// that does not change, and takes its place with one rename. Before that, it is
// shown to check, whose error ends the attempt; after it, to made, whose error
// puts the old state back; who reads in between has seen the new one. Each may
// be nil. So what made writes down is never of a state that the project did not
// have. What a job in another project of the
// same user writes into this one at that very moment may be lost.
//
// CodeInvalid: a path leaves the project, goes through a link, names a
// directory or something that Git reserves, or stands there twice;
// CodeTooLarge: the disk of the user is full, or the project is too large to
// be changed like this. Their messages are for clients.
func (s *Store) Apply(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, changes []Change, check, made func(*os.Root) error) (sizes []int64, err error) {
	defer s.beside(string(user))()
	sizes, err = s.apply(ctx, user, project, changes, check, made)
	full := func() bool {
		return errors.Is(err, syscall.ENOSPC) && dreamcore.CodeOf(err) == dreamcore.CodeTooLarge
	}
	if full() {
		if giveBack := s.lend(string(user)); giveBack != nil {
			defer giveBack()
			sizes, err = s.apply(ctx, user, project, changes, check, made)
		}
	}
	if full() && onlyRemoves(changes) {
		return s.removeInPlace(ctx, user, project, changes, check, made)
	}
	return sizes, err
}

// apply is one attempt of Apply.
func (s *Store) apply(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, changes []Change, check, made func(*os.Root) error) (sizes []int64, err error) {
	paths, err := checkChanges(changes)
	if err != nil {
		return nil, err
	}
	p, err := s.Project(user, project) // makes it, and puts its owner right
	if err != nil {
		return nil, err
	}
	defer p.Close()
	if err := hideSkills(p.root, false); err != nil { // of a job that was killed
		return nil, err
	}
	top, release, err := s.openUser(ctx, user, true)
	if err != nil {
		return nil, s.userError("open the project", err)
	}
	defer release()
	defer top.Close()
	a := &apply{ctx: ctx, store: s, user: string(user), name: string(project), top: top, old: p.root, left: MaxEntries}
	if err := a.begin(); err != nil {
		return nil, s.userError("prepare the change", errors.Join(err, a.end()))
	}
	defer func() {
		if e := a.end(); e != nil {
			s.log.Warn("remove what an applied change has replaced", "user", string(user), "project", string(project), "error", e)
		}
	}()
	if err := a.link(a.old, a.fresh, 1); err != nil {
		return nil, s.applyError(err)
	}
	var added int64
	var names int
	for i, c := range changes {
		size, err := a.change(paths[i], c.Write)
		if err != nil {
			return nil, s.applyError(err)
		}
		sizes = append(sizes, size)
		added += size
		names += 1 + strings.Count(paths[i], "/")
	}
	if err := a.checkGrown(added, names); err != nil {
		return nil, s.applyError(err)
	}
	if check != nil {
		if err := check(a.fresh); err != nil {
			return nil, err
		}
	}
	if err := a.exchange(); err != nil {
		return nil, s.userError("put the change in place", err)
	}
	if made == nil {
		return sizes, nil
	}
	if err := made(a.fresh); err != nil {
		return nil, errors.Join(err, a.exchange())
	}
	return sizes, nil
}

// checkChanges returns the clean paths of changes.
func checkChanges(changes []Change) ([]string, error) {
	paths := make([]string, len(changes))
	seen := make(map[string]bool, len(changes))
	for i, c := range changes {
		clean, err := cleanPath(c.Path)
		if err != nil || strings.HasSuffix(c.Path, "/") || gitName(clean) || seen[clean] {
			return nil, badPath(c.Path)
		}
		seen[clean] = true
		paths[i] = clean
	}
	return paths, nil
}

// gitName tells whether a path goes through what stock git would take for the
// data of a repository.
func gitName(clean string) bool {
	for element := range strings.SplitSeq(clean, "/") {
		if folded := strings.ToLower(strings.TrimRight(element, " .")); folded == ".git" || strings.HasPrefix(folded, "git~") {
			return true
		}
	}
	return false
}

const maxQuoted = 200 // bytes of a path in a message

func badPath(name string) error {
	return &dreamcore.Error{
		Code: dreamcore.CodeInvalid, Message: "Invalid file path: " + strings.ToValidUTF8(name[:min(len(name), maxQuoted)], "\uFFFD"),
		Hint: "use a path inside the project, such as index.html or assets/a.png, once, and not through a link",
	}
}

// applyError keeps the errors of paths as they are.
func (s *Store) applyError(err error) error {
	if e, ok := errors.AsType[*dreamcore.Error](err); ok {
		return e
	}
	return s.userError("change the project", err)
}

// apply is one change of a project in the making.
type apply struct {
	ctx   context.Context
	store *Store
	user  string
	name  string   // of the project
	top   *os.Root // of the user
	old   *os.Root // the project as it is
	fresh *os.Root // as it is to be
	left  int      // names

	before usage // of the old state
}

// begin makes an empty directory for the new state. What a crash left is
// removed: it was never the project.
func (a *apply) begin() error {
	if err := a.store.markChange(a.user, a.name); err != nil {
		return err
	}
	staging, err := makeDirs(a.top, stagingDir)
	if err != nil {
		return err
	}
	defer staging.Close()
	if err := clearStaging(staging, a.name); err != nil {
		return err
	}
	a.fresh, err = a.store.makeOwned(staging, a.name, sharedMode)
	return err
}

// end closes and removes what is not the project: the new state of an attempt
// that failed, or the old one.
func (a *apply) end() error {
	var errs []error
	if a.fresh != nil {
		errs = append(errs, a.fresh.Close())
	}
	staging, err := openDir(a.top, stagingDir)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	errs = append(errs, removeTree(staging, a.name), staging.Close())
	if err := errors.Join(errs...); err != nil {
		return err // the mark stays, for those who come after us
	}
	return a.store.unmarkChange(a.user, a.name)
}

// maxLinkDepth bounds the directories inside each other: each holds
// descriptors while what is in it is linked.
const maxLinkDepth = 256

var errTooManyNames = &dreamcore.Error{
	Code: dreamcore.CodeTooLarge, Message: "the project has too many files or directories inside each other to be changed",
	Hint: "remove what is not part of the game, such as node_modules",
}

var errTooManyLinks = &dreamcore.Error{
	Code: dreamcore.CodeTooLarge, Message: "a file of the project has too many hard links for the project to be changed",
	Hint: "remove those that are not needed",
}

// link makes in to what from holds: directories anew, everything else as a
// hard link, whatever it is. Nothing is opened but directories.
func (a *apply) link(from, to *os.Root, depth int) error {
	if depth > maxLinkDepth {
		return errTooManyNames
	}
	src, err := from.Open(".")
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := to.Open(".")
	if err != nil {
		return err
	}
	defer dst.Close()
	for {
		names, err := src.Readdirnames(1024)
		if a.left -= len(names); a.left < 0 {
			return errTooManyNames
		}
		for _, name := range names {
			if err := a.linkEntry(from, to, src, dst, name, depth); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errNotPlain) {
				return err // what vanished or changed meanwhile is not carried over
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (a *apply) linkEntry(from, to *os.Root, src, dst *os.File, name string, depth int) error {
	if err := a.ctx.Err(); err != nil {
		return err
	}
	info, err := from.Lstat(name)
	if err != nil {
		return err
	}
	a.before.add(info)
	if !info.IsDir() {
		// Flags 0: a symbolic link is linked itself, not what it points to.
		err := unix.Linkat(int(src.Fd()), name, int(dst.Fd()), name, 0)
		if errors.Is(err, syscall.EMLINK) {
			return errTooManyLinks
		}
		if errors.Is(err, syscall.EPERM) {
			if now, e := from.Lstat(name); e == nil && now.IsDir() {
				err = errNotPlain // it took the place of what was seen
			}
		}
		if err != nil {
			return &fs.PathError{Op: "link", Path: name, Err: err}
		}
		return nil
	}
	sub, err := openDir(from, name)
	if err != nil {
		return err
	}
	defer sub.Close()
	if err := to.Mkdir(name, privateMode); err != nil {
		return err
	}
	made, err := openDir(to, name)
	if err != nil {
		return err
	}
	defer made.Close()
	if err := a.link(sub, made, depth+1); err != nil {
		return err
	}
	return likeDir(made, info)
}

// likeDir gives a directory the owner, mode and time of another one.
func likeDir(dir *os.Root, info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return errNotPlain
	}
	return errors.Join(
		dir.Chown(".", int(st.Uid), int(st.Gid)),
		dir.Chmod(".", info.Mode()&(fs.ModePerm|fs.ModeSetgid|fs.ModeSticky)),
		dir.Chtimes(".", info.ModTime(), info.ModTime()),
	)
}

// change makes one change in the new state.
func (a *apply) change(name string, write func(io.Writer) error) (size int64, err error) {
	if err := a.ctx.Err(); err != nil {
		return 0, err
	}
	dir, err := a.parent(path.Dir(name), write != nil)
	if write == nil && errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, a.pathError(name, err)
	}
	defer dir.Close()
	base := path.Base(name)
	before, err := dir.Lstat(base)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return 0, a.pathError(name, err)
	case err == nil && before.IsDir():
		return 0, badPath(name)
	case write == nil && err != nil:
		return 0, nil
	case write == nil:
		return 0, dir.Remove(base)
	}
	mode := fs.FileMode(0o644)
	if err == nil && before.Mode().IsRegular() && before.Mode()&0o100 != 0 {
		mode = 0o755
	}
	size, err = a.write(dir, base, mode, write)
	return size, a.pathError(name, err)
}

// parent opens the directory of a file, one element at a time, and makes what
// is missing of it for the sandbox's user.
func (a *apply) parent(name string, create bool) (*os.Root, error) {
	dir, err := a.fresh.OpenRoot(".")
	if name == "." {
		return dir, err
	}
	for element := range strings.SplitSeq(name, "/") {
		if err != nil {
			return nil, err
		}
		var next *os.Root
		next, err = openDir(dir, element)
		if create && errors.Is(err, fs.ErrNotExist) {
			next, err = a.store.makeOwned(dir, element, sharedMode)
		}
		dir.Close()
		dir = next
	}
	return dir, err
}

// write puts a new file in the place of name; what was there is not written to.
func (a *apply) write(dir *os.Root, name string, mode fs.FileMode, content func(io.Writer) error) (size int64, err error) {
	temp := ".dreamcore-" + uuid.NewString()
	f, err := dir.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return 0, err
	}
	err = content(f)
	if err == nil {
		size, err = f.Seek(0, io.SeekCurrent)
	}
	if err == nil {
		err = errors.Join(f.Chown(a.store.opts.UID, a.store.opts.GID), f.Chmod(mode), f.Sync())
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = dir.Rename(temp, name)
	}
	return size, err
}

// pathError tells a client about a path that cannot be a file.
func (a *apply) pathError(name string, err error) error {
	for _, cause := range []error{errNotPlain, syscall.ENOTDIR, syscall.ELOOP, syscall.ENAMETOOLONG, syscall.EISDIR, syscall.EINVAL} {
		if errors.Is(err, cause) {
			return badPath(name)
		}
	}
	return err
}

// exchange puts the new state in the place of the old one, which then lies
// where the new one was; done again, it undoes that. After an error nothing is
// exchanged.
func (a *apply) exchange() error {
	projects, err := a.top.Open(projectsDir)
	if err != nil {
		return err
	}
	defer projects.Close()
	staging, err := a.top.Open(stagingDir)
	if err != nil {
		return err
	}
	defer staging.Close()
	swap := func() error {
		return unix.Renameat2(int(staging.Fd()), a.name, int(projects.Fd()), a.name, unix.RENAME_EXCHANGE)
	}
	err = swap()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSYS) {
		return &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "the file system cannot exchange two directories", Err: err,
			Hint: "put the state directory on ext4, XFS, Btrfs or tmpfs, or set disk_mib, which makes an ext4 for each user",
		}
	}
	if err != nil {
		return os.NewSyscallError("renameat2", err)
	}
	if err := errors.Join(projects.Sync(), staging.Sync()); err != nil {
		return errors.Join(err, os.NewSyscallError("renameat2", swap()))
	}
	return nil
}

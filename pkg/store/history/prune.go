package history

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Pruning keeps the newest versions and removes the oldest ones, with everything
// that only they need: large files that change go first, because each of their
// contents belongs to few versions.
//
//  1. From the newest version back, the size of what each adds is summed up until
//     the bound is reached.
//  2. The oldest versions that stay are written to the file "shallow", which is
//     synced: for Git they have no parents from then on, and keep their hashes.
//  3. The objects that no version needs are removed, one file each.
//
// A process that is killed after step 2 leaves objects that nothing needs, which
// the next pruning removes. Objects in packs are left alone: only an operator
// makes them.

// Bounds are what histories may take on disk; 0 is no bound. The newest version
// of a project always stays.
type Bounds struct {
	ProjectBytes int64 // of one project
	UserBytes    int64 // of all projects of one user
}

// lowWater is how much of a bound is left by pruning, so that not every version
// has to prune again.
const lowWater = 0.75

// SetBounds changes the bounds for what is pruned from now on.
func (s *Store) SetBounds(b Bounds) { s.bounds.Store(&b) }

// Pruned says what was removed.
type Pruned struct {
	Versions int   // that Log no longer lists
	Bytes    int64 // on disk
}

// Prune brings the history of a project, and then those of its user, within
// their bounds. It is to be called after a version was made. Histories of other
// projects that are in use are left for the next time. The errors are those of
// Record.
func (s *Store) Prune(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (Pruned, error) {
	all, err := s.pruneProject(ctx, s.path(user, project))
	if err == nil {
		var p Pruned
		p, err = s.pruneUser(ctx, filepath.Join(s.dir, string(user)))
		all.add(p)
	}
	if err != nil {
		return all, diskError("remove old versions", err)
	}
	return all, nil
}

func (p *Pruned) add(more Pruned) {
	p.Versions += more.Versions
	p.Bytes += more.Bytes
}

func (s *Store) pruneProject(ctx context.Context, dir string) (Pruned, error) {
	bound := s.bounds.Load().ProjectBytes
	if bound <= 0 {
		return Pruned{}, nil
	}
	return s.pruneOne(ctx, dir, bound, int64(lowWater*float64(bound)), lock)
}

// PruneAll is Prune for everything, such as what an import has made.
func (s *Store) PruneAll(ctx context.Context) (all Pruned, err error) {
	users, err := os.ReadDir(s.dir)
	if err != nil {
		return all, diskError("list the histories", err)
	}
	var errs []error
	for _, u := range users {
		if _, err := dreamcore.ParseUserID(u.Name()); err != nil {
			continue
		}
		dir := filepath.Join(s.dir, u.Name())
		repos, err := os.ReadDir(dir)
		errs = append(errs, err)
		for _, r := range repos {
			if !strings.HasSuffix(r.Name(), ".git") {
				continue
			}
			if err := ctx.Err(); err != nil {
				return all, errors.Join(append(errs, err)...)
			}
			p, err := s.pruneProject(ctx, filepath.Join(dir, r.Name()))
			all.add(p)
			errs = append(errs, err)
		}
		p, err := s.pruneUser(ctx, dir)
		all.add(p)
		errs = append(errs, err)
	}
	return all, errors.Join(errs...)
}

// pruneUser shortens the largest histories first.
func (s *Store) pruneUser(ctx context.Context, dir string) (all Pruned, err error) {
	bound := s.bounds.Load().UserBytes
	if bound <= 0 {
		return all, nil
	}
	type history struct {
		dir  string
		size int64
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	if err != nil {
		return all, err
	}
	var histories []history
	total := int64(0)
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".git") {
			continue
		}
		h := history{dir: filepath.Join(dir, e.Name())}
		if h.size, err = sizeOf(ctx, h.dir); err != nil {
			return all, err
		}
		histories = append(histories, h)
		total += h.size
	}
	if total <= bound {
		return all, nil
	}
	slices.SortFunc(histories, func(a, b history) int { return int(min(1, max(-1, b.size-a.size))) })
	excess := total - int64(lowWater*float64(bound))
	for _, h := range histories {
		if excess <= 0 {
			break
		}
		bound := max(1, h.size-excess)
		p, err := s.pruneOne(ctx, h.dir, bound, bound, tryLock)
		all.add(p)
		excess -= p.Bytes
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

// tryLock is lock that does not wait: a history in use is left for later.
func tryLock(ctx context.Context, dir string) (func(), error) {
	limited, cancel := context.WithTimeout(ctx, maxLockPause)
	defer cancel()
	unlock, err := lock(limited, dir)
	if err != nil && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		return nil, errInUse
	}
	return unlock, err
}

var errInUse = errors.New("the history is in use")

// pruneOne brings one repository that takes more than bound down to target, both
// in bytes.
func (s *Store) pruneOne(ctx context.Context, dir string, bound, target int64, lock func(context.Context, string) (func(), error)) (p Pruned, err error) {
	if size, err := sizeOf(ctx, dir); err != nil || size <= bound {
		return p, err
	}
	r, err := openRepo(dir)
	if err != nil {
		return p, ignoreMissing(err)
	}
	unlock, err := lock(ctx, dir)
	if errors.Is(err, errInUse) {
		return p, nil
	}
	if err != nil {
		return p, err
	}
	defer unlock()
	if p, err = r.prune(ctx, bound, target); p.Bytes > 0 {
		s.log.InfoContext(ctx, "old versions were removed", "repository", filepath.Base(dir), "user", filepath.Base(filepath.Dir(dir)), "versions", p.Versions, "bytes", p.Bytes)
	}
	if err != nil && ctx.Err() == nil {
		err = r.damaged(err)
	}
	return p, err
}

// prune removes what is not needed for as many of the newest versions as fit
// into target, unless all of them fit into bound. The repository is locked.
func (r *repo) prune(ctx context.Context, bound, target int64) (p Pruned, err error) {
	if err := r.sweep(); err != nil {
		return p, err
	}
	head, err := r.head()
	if err != nil || head.IsZero() {
		return p, err
	}
	if err := r.forgetSize(); err != nil {
		return p, err
	}
	before, err := r.measure(ctx)
	if err != nil {
		return p, err
	}
	if before <= bound {
		return p, r.noteSize(head, before)
	}
	cut, err := r.shallow()
	if err != nil {
		return p, err
	}
	k := &keeper{ctx: ctx, repo: r, cut: cut, kept: map[plumbing.Hash]bool{}}
	loose, err := r.looseBytes(ctx)
	if err != nil {
		return p, err
	}
	// What is no object of its own, such as the index, stays.
	if err := k.choose(head, target-(before-loose)); err != nil {
		return p, err // nothing is removed unless everything that stays was read
	}
	versions := 0
	count := func(plumbing.Hash, *object.Commit) bool { versions++; return true }
	if err := r.walk(ctx, count); err != nil {
		return p, err
	}
	p.Versions = versions
	if err := r.setShallow(k.boundary); err != nil {
		return p, err
	}
	versions = 0
	if err := r.walk(ctx, count); err != nil {
		return p, err
	}
	p.Versions -= versions
	if p.Bytes, err = r.removeAllBut(ctx, k.kept); err != nil {
		return p, err
	}
	return p, r.noteSize(head, before-p.Bytes)
}

// keeper finds out which versions stay, and which objects they need.
type keeper struct {
	ctx  context.Context
	repo *repo
	cut  map[plumbing.Hash]bool // commits without their parents already

	kept     map[plumbing.Hash]bool
	bytes    int64           // of kept
	fresh    []plumbing.Hash // of kept: what the commits that are being looked at add
	boundary map[plumbing.Hash]bool
}

// choose goes back from head, by the number of steps to it, until the next
// commits no longer fit. Those of the last step are the boundary: all parents of
// all commits before them stay too, as a repository must have them.
func (k *keeper) choose(head plumbing.Hash, bound int64) error {
	level := []plumbing.Hash{head}
	parents, err := k.add(level)
	if err != nil {
		return err
	}
	for len(parents) > 0 {
		k.fresh = nil
		next, err := k.add(parents)
		if k.ctx.Err() != nil {
			return k.ctx.Err()
		}
		if ofMachine(err) {
			return err
		}
		if err != nil || k.bytes > bound { // what cannot be read is not worth keeping
			for _, hash := range k.fresh {
				delete(k.kept, hash)
			}
			break
		}
		level, parents = parents, next
	}
	return k.bound(level, len(parents) > 0)
}

// ofMachine reports whether err says nothing about a version that could not be
// read: the process had no file left to open it with, or the machine no memory.
func ofMachine(err error) bool {
	errno, ok := errors.AsType[syscall.Errno](err)
	return ok && !slices.Contains([]syscall.Errno{syscall.ENOENT, syscall.EIO, syscall.EUCLEAN, syscall.EBADMSG}, errno)
}

// bound collects the commits that are kept without their parents.
func (k *keeper) bound(last []plumbing.Hash, more bool) error {
	k.boundary = map[plumbing.Hash]bool{}
	for hash := range k.cut {
		if k.kept[hash] {
			k.boundary[hash] = true
		}
	}
	if !more {
		return nil
	}
	for _, hash := range last {
		c, err := object.GetCommit(k.repo.store, hash)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(c.ParentHashes, func(p plumbing.Hash) bool { return !k.kept[p] }) {
			k.boundary[hash] = true
		}
	}
	return nil
}

// add keeps commits with all that they need, and returns those of their parents
// that are not kept yet.
func (k *keeper) add(commits []plumbing.Hash) (parents []plumbing.Hash, err error) {
	seen := map[plumbing.Hash]bool{}
	for _, hash := range commits {
		if err := k.keep(hash); err != nil {
			return nil, err
		}
		c, err := object.GetCommit(k.repo.store, hash)
		if err != nil {
			return nil, err
		}
		if err := k.tree(c.TreeHash, 1); err != nil {
			return nil, err
		}
		if k.cut[hash] {
			continue
		}
		for _, p := range c.ParentHashes {
			if !seen[p] {
				seen[p] = true
				parents = append(parents, p)
			}
		}
	}
	return slices.DeleteFunc(parents, func(hash plumbing.Hash) bool { return k.kept[hash] }), nil
}

// keep keeps one object.
func (k *keeper) keep(hash plumbing.Hash) error {
	if k.kept[hash] {
		return nil
	}
	info, err := os.Lstat(loosePath(filepath.Join(k.repo.dir, objectsDir), hash))
	switch {
	case err == nil:
		k.bytes += blocks(info)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	default: // in a pack, where it takes nothing that could be removed
		if err := k.repo.store.HasEncodedObject(hash); err != nil {
			return fmt.Errorf("object %s: %w", hash, err)
		}
	}
	k.kept[hash] = true
	k.fresh = append(k.fresh, hash)
	return nil
}

func (k *keeper) tree(hash plumbing.Hash, depth int) error {
	if k.kept[hash] {
		return nil
	}
	if err := k.ctx.Err(); err != nil {
		return err
	}
	if depth > MaxDepth+1 {
		return errBeyond
	}
	if err := k.keep(hash); err != nil {
		return err
	}
	raw, err := k.repo.readTree(hash)
	if err != nil {
		return err
	}
	for len(raw) > 0 {
		var e object.TreeEntry
		if e, raw, err = nextEntry(raw); err != nil {
			return err
		}
		switch e.Mode {
		case filemode.Submodule:
		case filemode.Dir:
			err = k.tree(e.Hash, depth+1)
		default:
			err = k.keep(e.Hash)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// removeAllBut removes the objects that are files of their own and not kept, and
// returns what they took on disk.
func (r *repo) removeAllBut(ctx context.Context, kept map[plumbing.Hash]bool) (bytes int64, err error) {
	err = r.looseObjects(ctx, func(path string, hash plumbing.Hash, info fs.FileInfo) error {
		if kept[hash] {
			return nil
		}
		if err := ignoreMissing(os.Remove(path)); err != nil {
			return err
		}
		bytes += blocks(info)
		return nil
	})
	return bytes, err
}

// looseObjects calls visit for each object that is a file of its own.
func (r *repo) looseObjects(ctx context.Context, visit func(path string, hash plumbing.Hash, info fs.FileInfo) error) error {
	for i := range 256 {
		if err := ctx.Err(); err != nil {
			return err
		}
		prefix := hex.EncodeToString([]byte{byte(i)})
		dir := filepath.Join(r.dir, objectsDir, prefix)
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			if !isHash(prefix + e.Name()) {
				continue
			}
			info, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err == nil {
				err = visit(filepath.Join(dir, e.Name()), plumbing.NewHash(prefix+e.Name()), info)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *repo) looseBytes(ctx context.Context) (total int64, err error) {
	err = r.looseObjects(ctx, func(_ string, _ plumbing.Hash, info fs.FileInfo) error {
		total += blocks(info)
		return nil
	})
	return total, err
}

func blocks(info fs.FileInfo) int64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512
	}
	return onDisk(info.Size())
}

// sizeName is the file that remembers what a repository takes on disk: the
// newest commit and a number of bytes. It is not there while a version is made,
// so what a killed process has left is counted anew.
const sizeName = "dreamcore-size"

// sizeOf returns what a repository takes on disk in bytes. Unless a version was
// interrupted, that is one small file to read.
func sizeOf(ctx context.Context, dir string) (int64, error) {
	r, err := openRepo(dir)
	if err != nil {
		return 0, ignoreMissing(err)
	}
	head, err := r.head()
	if err != nil {
		return 0, nil // damaged: it is not pruned
	}
	if size, ok := r.knownSize(head); ok {
		return size, nil
	}
	unlock, err := tryLock(ctx, dir)
	if errors.Is(err, errInUse) {
		return r.measure(ctx)
	}
	if err != nil {
		return 0, err
	}
	defer unlock()
	if head, err = r.head(); err != nil {
		return 0, nil
	}
	size, err := r.measure(ctx)
	if err == nil && !head.IsZero() {
		_ = r.noteSize(head, size) // only a cache
	}
	return size, err
}

func (r *repo) knownSize(head plumbing.Hash) (size int64, ok bool) {
	raw, err := os.ReadFile(filepath.Join(r.dir, sizeName))
	if err != nil {
		return 0, false
	}
	var of string
	n, err := fmt.Sscanf(string(raw), "%40s %d\n", &of, &size)
	return size, err == nil && n == 2 && of == head.String() && size >= 0
}

// forgetSize is called before anything is written. The lock is held.
func (r *repo) forgetSize() error { return ignoreMissing(os.Remove(filepath.Join(r.dir, sizeName))) }

func (r *repo) noteSize(head plumbing.Hash, size int64) error {
	temp := filepath.Join(r.dir, tempPrefix+uuid.NewString())
	err := os.WriteFile(temp, fmt.Appendf(nil, "%s %d\n", head, size), fileMode)
	if err == nil {
		err = os.Rename(temp, filepath.Join(r.dir, sizeName))
	}
	if err != nil {
		return errors.Join(err, ignoreMissing(os.Remove(temp)))
	}
	return nil
}

// measure sums up what the files of the repository take on disk.
func (r *repo) measure(ctx context.Context) (total int64, err error) {
	err = filepath.WalkDir(r.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return ignoreMissing(err)
		}
		total += blocks(info)
		return nil
	})
	return total, err
}

package history

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// Pruning keeps the newest versions of the branch main and removes the oldest
// ones, with all objects that only they need: large files that change often go
// first, because each of their contents belongs to few versions.
//
//  1. From the newest version back, the sizes of the objects that each version
//     adds are summed up until the limit is reached.
//  2. The oldest versions that stay are written to the file "shallow", which is
//     synced: from then on Git reads them as commits without parents. They keep
//     their hashes.
//  3. The objects that no remaining version needs are removed, one file each.
//
// A process that is killed after step 2 leaves objects that no version needs,
// which the next pruning removes. Objects in packs are left alone: only an
// operator creates packs.

// Limits are the space that histories may take on disk; 0 means no limit. The newest
// version of a project always stays.
type Limits struct {
	ProjectBytes int64 // of one project
	UserBytes    int64 // of all projects of one user
}

// lowWater is the part of a limit that pruning leaves in use, so that not every
// version has to prune again.
const lowWater = 0.75

// SetLimits changes the limits of later prunings.
func (s *Store) SetLimits(b Limits) { s.limits.Store(&b) }

// Pruned is the result of Prune.
type Pruned struct {
	Versions int   // that Log no longer lists
	Bytes    int64 // freed on disk
}

func (p *Pruned) add(more Pruned) {
	p.Versions += more.Versions
	p.Bytes += more.Bytes
}

// Prune brings the history of a project, and then all histories of its user,
// within their limits. Call it after a version was created. Histories of other
// projects that are in use are left for the next time. The errors are those of
// Record.
func (s *Store) Prune(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (Pruned, error) {
	all, err := s.pruneProject(ctx, s.path(user, project))
	if err == nil {
		var p Pruned
		p, err = s.pruneUser(ctx, filepath.Join(s.dir, string(user)), string(project)+repoExtension)
		all.add(p)
	}
	if err != nil {
		return all, diskError("remove old versions", err)
	}
	return all, nil
}

func (s *Store) pruneProject(ctx context.Context, dir string) (Pruned, error) {
	limit := s.limits.Load().ProjectBytes
	if limit <= 0 {
		return Pruned{}, nil
	}
	return s.pruneOne(ctx, dir, limit, int64(lowWater*float64(limit)), lock)
}

// PruneAll is Prune for all projects of all users.
func (s *Store) PruneAll(ctx context.Context) (all Pruned, err error) {
	users, err := os.ReadDir(s.dir)
	if err = statefile.IgnoreMissing(err); err != nil {
		return all, diskError("list the histories", err)
	}
	var errs []error
	for _, u := range users {
		if _, err := dreamcore.ParseUserID(u.Name()); err != nil {
			continue
		}
		dir := filepath.Join(s.dir, u.Name())
		repos, err := reposIn(dir)
		errs = append(errs, err)
		for _, r := range repos {
			if err := ctx.Err(); err != nil {
				return all, errors.Join(append(errs, err)...)
			}
			p, err := s.pruneProject(ctx, r)
			all.add(p)
			errs = append(errs, err)
		}
		p, err := s.pruneUser(ctx, dir, "")
		all.add(p)
		errs = append(errs, err)
	}
	return all, errors.Join(errs...)
}

// reposIn returns the paths of the repositories in the directory of a user, which
// may be missing.
func reposIn(dir string) (repos []string, err error) {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), repoExtension) {
			repos = append(repos, filepath.Join(dir, e.Name()))
		}
	}
	return repos, statefile.IgnoreMissing(err)
}

// pruneUser shortens the histories of a user, the largest first. changed is the name of
// the repository that has changed since the last call; "" for any.
func (s *Store) pruneUser(ctx context.Context, dir, changed string) (all Pruned, err error) {
	limit := s.limits.Load().UserBytes
	if limit <= 0 {
		return all, nil
	}
	if changed != "" {
		size, err := sizeOf(ctx, filepath.Join(dir, changed))
		if err != nil {
			return all, err
		}
		if total, ok := s.totals.change(dir, changed, size); ok && total <= limit {
			return all, nil
		}
	}
	repos, err := reposIn(dir)
	if err != nil {
		return all, err
	}
	sizes := map[string]int64{}
	total := int64(0)
	for _, r := range repos {
		if sizes[r], err = sizeOf(ctx, r); err != nil {
			return all, err
		}
		total += sizes[r]
	}
	if total <= limit {
		s.totals.set(dir, sizes)
		return all, nil
	}
	s.totals.forget(dir)
	slices.SortFunc(repos, func(a, b string) int { return int(min(1, max(-1, sizes[b]-sizes[a]))) })
	excess := total - int64(lowWater*float64(limit))
	for _, r := range repos {
		if excess <= 0 {
			break
		}
		limit := max(1, sizes[r]-excess)
		p, err := s.pruneOne(ctx, r, limit, limit, tryLock)
		all.add(p)
		excess -= p.Bytes
		if err != nil {
			return all, err
		}
	}
	return all, nil
}

// tryLock is lock without waiting. It returns errInUse if another writer holds the
// lock.
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

// pruneOne reduces one repository that takes more than limit bytes to target
// bytes. lock is lock or tryLock.
func (s *Store) pruneOne(ctx context.Context, dir string, limit, target int64, lock func(context.Context, string) (func(), error)) (p Pruned, err error) {
	if size, err := sizeOf(ctx, dir); err != nil || size <= limit {
		return p, err
	}
	r, err := openRepo(dir)
	if err != nil {
		return p, statefile.IgnoreMissing(err)
	}
	unlock, err := lock(ctx, dir)
	if errors.Is(err, errInUse) {
		return p, nil
	}
	if err != nil {
		return p, err
	}
	defer unlock()
	if p, err = r.prune(ctx, limit, target); p.Bytes > 0 {
		s.log.InfoContext(ctx, "old versions were removed", "repository", filepath.Base(dir), "user", filepath.Base(filepath.Dir(dir)), "versions", p.Versions, "bytes", p.Bytes)
	}
	if err != nil && ctx.Err() == nil {
		err = r.damaged(err)
	}
	return p, err
}

// prune keeps as many of the newest versions as fit into target bytes, unless all
// of them fit into limit bytes. It must be called with the lock held.
func (r *repo) prune(ctx context.Context, limit, target int64) (p Pruned, err error) {
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
	if before <= limit {
		return p, r.noteSize(head, before)
	}
	shallow, err := r.shallow()
	if err != nil {
		return p, err
	}
	loose := int64(0)
	err = r.looseObjects(ctx, func(_ string, _ plumbing.Hash, info fs.FileInfo) error {
		loose += blocks(info)
		return nil
	})
	if err != nil {
		return p, err
	}
	k := &keeper{ctx: ctx, repo: r, shallow: shallow, kept: map[plumbing.Hash]bool{}}
	// All other files, such as the index, stay.
	if err := k.choose(head, target-(before-loose)); err != nil {
		return p, err // nothing is removed unless everything that stays was read
	}
	versions, err := r.count(ctx)
	if err != nil {
		return p, err
	}
	if err := r.setShallow(k.boundary); err != nil {
		return p, err
	}
	left, err := r.count(ctx)
	if err != nil {
		return p, err
	}
	p.Versions = versions - left
	err = r.looseObjects(ctx, func(path string, hash plumbing.Hash, info fs.FileInfo) error {
		if k.kept[hash] {
			return nil
		}
		if err := statefile.IgnoreMissing(os.Remove(path)); err != nil {
			return err
		}
		p.Bytes += blocks(info)
		return nil
	})
	if err == nil {
		var freed int64
		freed, err = r.dropShots(func(hash plumbing.Hash) bool { return k.kept[hash] })
		p.Bytes += freed
	}
	if err != nil {
		return p, err
	}
	return p, r.noteSize(head, before-p.Bytes)
}

// count returns the number of versions.
func (r *repo) count(ctx context.Context) (n int, err error) {
	err = r.walk(ctx, func(plumbing.Hash, *object.Commit) bool { n++; return true })
	return n, err
}

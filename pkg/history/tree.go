package history

import (
	"context"
	"errors"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
)

// The walks of go-git refuse a whole tree for one name with a line break in
// it, and take a subtree that is missing for an empty one. Names here are those
// that a sandbox has made, and never become paths of ours.

// leaf is a file or a link of a version.
type leaf struct {
	path string
	mode filemode.FileMode
	hash plumbing.Hash
}

// pair is a path in two versions; the side where there is no file is nil.
type pair struct{ from, to *leaf }

// errDepth says that a tree is deeper than any that we write.
var errDepth = errors.New("too many directories inside each other")

// compare calls visit for each file that differs between two trees, of which
// each may be the zero hash for none.
func (r *repo) compare(ctx context.Context, from, to plumbing.Hash, dir string, depth int, visit func(pair)) error {
	if from == to {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if depth > MaxDepth+1 {
		return errDepth
	}
	before, err := r.entries(from)
	if err != nil {
		return err
	}
	after, err := r.entries(to)
	if err != nil {
		return err
	}
	old := make(map[string]object.TreeEntry, len(before))
	for _, e := range before {
		old[e.Name] = e
	}
	for _, e := range after {
		b, was := old[e.Name]
		delete(old, e.Name)
		if was && b.Hash == e.Hash && b.Mode == e.Mode {
			continue
		}
		if err := r.compareEntry(ctx, b, e, join(dir, e.Name), depth, visit); err != nil {
			return err
		}
	}
	for _, e := range before {
		if _, gone := old[e.Name]; !gone {
			continue
		}
		if err := r.compareEntry(ctx, e, object.TreeEntry{}, join(dir, e.Name), depth, visit); err != nil {
			return err
		}
	}
	return nil
}

// compareEntry compares two entries of one name; the zero entry is none.
func (r *repo) compareEntry(ctx context.Context, b, e object.TreeEntry, path string, depth int, visit func(pair)) error {
	var p pair
	var from, to plumbing.Hash
	switch b.Mode {
	case filemode.Empty:
	case filemode.Dir:
		from = b.Hash
	default:
		p.from = &leaf{path, b.Mode, b.Hash}
	}
	switch e.Mode {
	case filemode.Empty:
	case filemode.Dir:
		to = e.Hash
	default:
		p.to = &leaf{path, e.Mode, e.Hash}
	}
	if p.from != nil || p.to != nil {
		visit(p)
	}
	return r.compare(ctx, from, to, path, depth+1, visit)
}

// entries returns what is in a tree; nothing for the zero hash.
func (r *repo) entries(tree plumbing.Hash) ([]object.TreeEntry, error) {
	if tree.IsZero() {
		return nil, nil
	}
	t, err := object.GetTree(r.store, tree)
	if err != nil {
		return nil, err
	}
	return t.Entries, nil
}

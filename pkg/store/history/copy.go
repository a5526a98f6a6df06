package history

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// copyConfig is that of a repository that lies in its project.
const copyConfig = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n"

// Newest returns the hash of the newest version; "" when there is none.
func (s *Store) Newest(user dreamcore.UserID, project dreamcore.ProjectID) (string, error) {
	r, err := openRepo(s.path(user, project))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", diskError("open the history", err)
	}
	head, err := r.head()
	if err != nil {
		return "", r.damaged(err)
	}
	if head.IsZero() {
		return "", nil
	}
	return head.String(), nil
}

// Count returns how many versions a project has, as Log would list them all.
func (s *Store) Count(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (n int, err error) {
	r, err := openRepo(s.path(user, project))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, diskError("open the history", err)
	}
	err = r.walk(ctx, func(plumbing.Hash, *object.Commit) bool {
		n++
		return true
	})
	if err != nil {
		return n, r.unreadable(ctx, err)
	}
	return n, nil
}

// Copy calls visit for each file of the project's repository as it would lie
// in a directory .git: names in order, with slashes. No version is made
// meanwhile. A project without a version has none. The errors are visit's, and
// those of the disk.
func (s *Store) Copy(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, visit func(name string, size int64, r io.Reader) error) error {
	r, err := openRepo(s.path(user, project))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return diskError("open the history", err)
	}
	unlock, err := lock(ctx, r.dir)
	if err != nil {
		return diskError("lock the history", err)
	}
	defer unlock()
	head, err := r.head()
	if err != nil {
		return r.damaged(err)
	}
	if head.IsZero() {
		return nil
	}
	files := [][2]string{{headFile, "ref: " + branch + "\n"}, {"config", copyConfig}}
	cut, err := r.shallow()
	if err != nil {
		return r.damaged(err)
	}
	if len(cut) > 0 {
		files = append(files, [2]string{shallowFile, encodeShallow(cut)})
	}
	for _, f := range files {
		if err := visit(f[0], int64(len(f[1])), strings.NewReader(f[1])); err != nil {
			return err
		}
	}
	if err := r.copyObjects(ctx, visit); err != nil {
		return err
	}
	text := head.String() + "\n"
	return visit(branch, int64(len(text)), strings.NewReader(text))
}

func (r *repo) copyObjects(ctx context.Context, visit func(name string, size int64, r io.Reader) error) error {
	top := filepath.Join(r.dir, objectsDir)
	return filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || !d.Type().IsRegular() || strings.HasPrefix(d.Name(), tempPrefix) {
			return err
		}
		name, err := filepath.Rel(r.dir, path)
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		return visit(filepath.ToSlash(name), info.Size(), f)
	})
}

// Item is a file or a link as a version has it.
type Item struct {
	Path string
	Mode fs.FileMode // regular with its permissions, or ModeSymlink
	Size int64       // bytes
	Open func() (io.ReadCloser, error)
}

// Items returns everything in the newest version, by path, and its hash; ""
// when there is none.
func (s *Store) Items(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (items []Item, head string, err error) {
	head, err = s.Newest(user, project)
	if err != nil || head == "" {
		return nil, head, err
	}
	r, err := openRepo(s.path(user, project))
	if err != nil {
		return nil, "", diskError("open the history", err)
	}
	tree, err := r.treeOf(plumbing.NewHash(head))
	if err != nil {
		return nil, "", r.damaged(err)
	}
	var leaves []*leaf
	if err := r.compare(ctx, plumbing.ZeroHash, tree, func(p pair) { leaves = append(leaves, p.to) }); err != nil {
		return nil, "", r.unreadable(ctx, err)
	}
	sizes := r.sizes()
	for _, l := range leaves {
		mode := fs.FileMode(0o644)
		switch l.mode {
		case filemode.Submodule:
			continue
		case filemode.Symlink:
			mode = fs.ModeSymlink | fs.ModePerm
		case filemode.Executable:
			mode = 0o755
		}
		size, err := sizes.of(l.hash)
		if err != nil {
			return nil, "", r.damaged(err)
		}
		items = append(items, Item{Path: l.path, Mode: mode, Size: size, Open: r.opener(l.hash)})
	}
	slices.SortFunc(items, func(a, b Item) int { return comparePaths(a.Path, b.Path) })
	return items, head, nil
}

// opener reads a blob only when it is opened: together the files of a version
// may be larger than the memory.
func (r *repo) opener(hash plumbing.Hash) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) {
		blob, err := object.GetBlob(r.store, hash)
		if err != nil {
			return nil, r.damaged(err)
		}
		return blob.Reader()
	}
}

// comparePaths sorts as a walk through directories does.
func comparePaths(a, b string) int {
	return slices.Compare(strings.Split(path.Clean(a), "/"), strings.Split(path.Clean(b), "/"))
}

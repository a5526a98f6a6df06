package history

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// File is a regular file or a symbolic link in a version.
type File struct {
	Path string      // relative to the project, with slashes
	Mode fs.FileMode // regular with its permissions, or ModeSymlink
	Size int64       // bytes

	repo   *repo
	hash   plumbing.Hash
	commit plumbing.Hash // the version
}

// Open returns the content of the file, or the target of the link. It is read
// only now: together the files of a version may be larger than the memory. The
// caller must close it.
func (f File) Open() (io.ReadCloser, error) {
	blob, err := object.GetBlob(f.repo.store, f.hash)
	if err != nil {
		return nil, f.repo.missing(context.Background(), f.commit, err)
	}
	r, err := blob.Reader()
	if err != nil {
		return nil, f.repo.damaged(err)
	}
	return r, nil
}

// Write writes the content of the file to w.
func (f File) Write(w io.Writer) error {
	r, err := f.Open()
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, r.Close())
}

// Files returns the regular files of a version whose path wanted accepts, and
// the hash of the version. hash is 7 to 40 hexadecimal digits. CodeInvalid: it
// is not; CodeNotFound: there is no such version.
func (s *Store) Files(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, hash string, wanted func(path string) bool) (files []File, full string, err error) {
	r, c, err := s.find(ctx, user, project, hash)
	if err != nil {
		return nil, "", err
	}
	files, err = r.files(ctx, c.Hash, c.TreeHash, func(f File) bool { return f.Mode.IsRegular() && wanted(f.Path) })
	return files, c.Hash.String(), err
}

// Items returns all files and links of the newest version, sorted by path, and
// its hash, which is "" if there is no version.
func (s *Store) Items(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID) (items []File, hash string, err error) {
	r, err := s.open(user, project)
	if r == nil {
		return nil, "", err
	}
	head, err := r.head()
	if err == nil && head.IsZero() {
		return nil, "", nil
	}
	var tree plumbing.Hash
	if err == nil {
		tree, err = r.treeOf(head)
	}
	if err != nil {
		return nil, "", r.damaged(err)
	}
	if items, err = r.files(ctx, head, tree, func(File) bool { return true }); err != nil {
		return nil, "", err
	}
	slices.SortFunc(items, func(a, b File) int { return comparePaths(a.Path, b.Path) })
	return items, head.String(), nil
}

// files returns those files of a version, whose tree is given, that wanted
// accepts. Submodules are not files.
func (r *repo) files(ctx context.Context, commit, tree plumbing.Hash, wanted func(File) bool) (files []File, err error) {
	err = r.compare(ctx, plumbing.ZeroHash, tree, func(p pair) {
		f := File{Path: p.to.Name, Mode: 0o644, repo: r, hash: p.to.Hash, commit: commit}
		switch p.to.Mode {
		case filemode.Submodule:
			return
		case filemode.Symlink:
			f.Mode = fs.ModeSymlink | fs.ModePerm
		case filemode.Executable:
			f.Mode = 0o755
		}
		if wanted(f) {
			files = append(files, f)
		}
	})
	sizes := r.sizes()
	for i := 0; err == nil && i < len(files); i++ {
		files[i].Size, err = sizes.of(files[i].hash)
	}
	if err != nil {
		return nil, r.missing(ctx, commit, err)
	}
	return files, nil
}

// comparePaths sorts as a walk through directories does.
func comparePaths(a, b string) int {
	return slices.Compare(strings.Split(path.Clean(a), "/"), strings.Split(path.Clean(b), "/"))
}

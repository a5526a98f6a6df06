package history

import (
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// copyConfig is the configuration of a repository that lies in its project.
const copyConfig = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n"

// Copy calls visit for each file of the project's repository as it would lie
// in a directory .git: names in order, with slashes. No version is created
// meanwhile. visit is not called for a project without versions. The errors are
// visit's, and errors of the disk.
func (s *Store) Copy(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, visit func(name string, size int64, r io.Reader) error) error {
	r, err := s.open(user, project)
	if r == nil {
		return err
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
	shallow, err := r.shallow()
	if err != nil {
		return r.damaged(err)
	}
	text := func(name, content string) error {
		return visit(name, int64(len(content)), strings.NewReader(content))
	}
	for _, f := range [][2]string{{headFile, "ref: " + branch + "\n"}, {"config", copyConfig}, {shallowFile, encodeShallow(shallow)}} {
		if f[1] == "" {
			continue // no commit is without its parents
		}
		if err := text(f[0], f[1]); err != nil {
			return err
		}
	}
	if err := r.copyObjects(ctx, visit); err != nil {
		return err
	}
	return text(branch, head.String()+"\n")
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

package tree

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"syscall"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// maxLinkDepth limits the nested directories that are linked or measured: each
// keeps descriptors open while its contents are processed.
const maxLinkDepth = 256

// Usage is the space that a project takes. The zero value is ready for use.
type Usage struct {
	Bytes int64 // on disk: a sparse file counts with the blocks it has
	Files int   // names of any kind
	seen  map[uint64]bool
}

// add counts one name. The bytes of a file with several names count once.
func (u *Usage) add(info fs.FileInfo) {
	u.Files++
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
	u.Bytes += st.Blocks * 512
}

// Measure adds the contents of a project, except for what a job added and what
// cannot be read. It stops counting beyond MaxEntries names.
func (u *Usage) Measure(ctx context.Context, project *os.Root) error {
	u.subtractSkills(project)
	return u.measure(ctx, project, 1)
}

func (u *Usage) measure(ctx context.Context, dir *os.Root, depth int) error {
	if depth > maxLinkDepth || u.Files > MaxEntries {
		return nil
	}
	d, err := dir.Open(".")
	if err != nil {
		return nil // removed meanwhile, or not readable
	}
	defer d.Close()
	for name, err := range namesIn(d) {
		if err != nil {
			return nil // not readable to its end
		}
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
		sub, err := OpenDir(dir, name)
		if err != nil {
			continue
		}
		if err := errors.Join(u.measure(ctx, sub, depth+1), sub.Close()); err != nil {
			return err
		}
	}
	return nil
}

// subtractSkills subtracts in advance what measure counts and a job added.
func (u *Usage) subtractSkills(project *os.Root) {
	sub, err := OpenDir(project, dreamcore.ConfigDir)
	if err != nil {
		return
	}
	defer sub.Close()
	if !AddedByJob(sub, path.Base(dreamcore.SkillsLink), dreamcore.SkillsLink) {
		return
	}
	u.Files-- // a link this short takes no block
	if AddedByJob(project, dreamcore.ConfigDir, dreamcore.ConfigDir) {
		u.Files--
		if info, err := sub.Stat("."); err == nil {
			u.Bytes -= info.Sys().(*syscall.Stat_t).Blocks * 512
		}
	}
}

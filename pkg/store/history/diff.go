package history

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	format "github.com/go-git/go-git/v5/plumbing/format/diff"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/utils/diff"
	"github.com/sergi/go-diff/diffmatchpatch"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Limits of a diff. A sandbox can write files whose comparison takes hours.
const (
	maxDiffFile  = 1 << 20          // bytes of a file that is compared line by line
	maxDiffBytes = 4 << 20          // of the whole text
	maxDiffFiles = 2000             // that are shown; the others are counted
	fileLimit    = 2 * time.Second  // for one file; then the comparison becomes coarse
	diffLimit    = 20 * time.Second // for all
	renameLimit  = 100              // new files, and removed files
	renameScore  = 60               // per cent of lines that are the same
	diffContext  = 3                // lines around a change
)

// Diff returns the changes of a version in the format of git diff; in the first
// version everything is new. hash is 7 to 40 hexadecimal digits. Files that are
// not text, or larger than 1 MiB, are only reported to differ. The last line of a
// long diff counts the files that are not shown. CodeInvalid: hash is not a hash;
// CodeNotFound: there is no such version; CodeBusy: too many diffs are running.
func (s *Store) Diff(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, hash string) (string, error) {
	r, c, err := s.find(ctx, user, project, hash)
	if err != nil {
		return "", err
	}
	leave, err := s.heavy.Enter(ctx, user)
	if err != nil {
		return "", err
	}
	defer leave()
	limited, cancel := context.WithTimeout(ctx, diffLimit)
	defer cancel()
	for {
		shallow, err := r.shallow()
		var text string
		if err == nil {
			text, err = r.diff(limited, c, shallow)
		}
		if errors.Is(err, plumbing.ErrObjectNotFound) && limited.Err() == nil && r.prunedSince(shallow) {
			continue // the version before this one was pruned while it was read
		}
		if err != nil {
			return "", r.missing(ctx, c.Hash, err)
		}
		return text, nil
	}
}

// diff compares a commit with its first parent, unless the commit is in shallow.
func (r *repo) diff(ctx context.Context, c *object.Commit, shallow map[plumbing.Hash]bool) (string, error) {
	changes, err := r.changes(ctx, c, shallow)
	if err != nil {
		return "", err
	}
	var text strings.Builder
	enc := format.NewUnifiedEncoder(&text, diffContext)
	for i, change := range changes.shown {
		if text.Len() > maxDiffBytes || ctx.Err() != nil {
			changes.more += len(changes.shown) - i
			break
		}
		p, err := comparison(change)
		if err != nil {
			return "", err
		}
		if err := enc.Encode(p); err != nil {
			return "", fmt.Errorf("write a diff: %w", err)
		}
	}
	text.WriteString(changes.note())
	return strings.ToValidUTF8(text.String(), "\uFFFD"), nil
}

// changes holds the files that differ between two versions.
type changes struct {
	shown  object.Changes
	more   int  // files that are not shown
	beyond bool // there are even more, which are not counted
	first  bool // the oldest version that is kept, compared with an empty one
}

// note returns the lines about files that the diff does not show.
func (c changes) note() string {
	var b strings.Builder
	switch {
	case c.beyond:
		fmt.Fprintf(&b, "(more than %d more files changed and are not shown)\n", c.more)
	case c.more > 0:
		fmt.Fprintf(&b, "(%d more files changed and are not shown)\n", c.more)
	}
	if c.first {
		b.WriteString("(the versions before this one are not kept: all of its files are shown as new)\n")
	}
	return b.String()
}

// changes returns the files that a commit changed since its first parent.
func (r *repo) changes(ctx context.Context, c *object.Commit, shallow map[plumbing.Hash]bool) (all changes, err error) {
	all.first = shallow[c.Hash]
	var before plumbing.Hash
	if parent := firstParent(c, shallow); !parent.IsZero() {
		if before, err = r.treeOf(parent); err != nil {
			return all, err
		}
	}
	none := &plumbing.MemoryObject{}
	none.SetType(plumbing.TreeObject)
	tree, err := object.DecodeTree(r.store, none) // carries the store to the library
	if err != nil {
		return all, err
	}
	// The search for renames reads every new and every removed file: their
	// contents are compared only if all of them are small.
	sizes := r.sizes()
	opts := &object.DiffTreeOptions{DetectRenames: true, RenameScore: renameScore, RenameLimit: renameLimit}
	entry := func(l *object.TreeEntry) object.ChangeEntry {
		if l == nil {
			return object.ChangeEntry{}
		}
		if size, err := sizes.of(l.Hash); err != nil || size > maxDiffFile {
			opts.OnlyExactRenames = true
		}
		// The name of the entry is not used; go-git would not read a file with
		// a name that it refuses.
		return object.ChangeEntry{Name: l.Name, Tree: tree, TreeEntry: object.TreeEntry{Name: "file", Mode: l.Mode, Hash: l.Hash}}
	}
	err = r.compare(ctx, before, c.TreeHash, func(p pair) {
		if len(all.shown) == maxDiffFiles {
			all.more++
			return
		}
		all.shown = append(all.shown, &object.Change{From: entry(p.from), To: entry(p.to)})
	})
	if all.beyond = errors.Is(err, errBeyond) || errors.Is(err, context.DeadlineExceeded); all.beyond {
		err = nil
	}
	if err == nil && ctx.Err() == nil {
		all.shown, err = object.DetectRenames(all.shown, opts)
	}
	return all, err
}

// comparison returns one changed file for the encoder.
func comparison(change *object.Change) (format.Patch, error) {
	from, to, err := change.Files()
	if err != nil {
		return nil, err
	}
	p := &filePatch{from: fileOf(change.From, from), to: fileOf(change.To, to)}
	before, ok1, err1 := lines(from)
	after, ok2, err2 := lines(to)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	if p.binary = !ok1 || !ok2; !p.binary {
		for _, d := range diff.DoWithTimeout(before, after, fileLimit) {
			p.chunks = append(p.chunks, chunk{d})
		}
	}
	return p, nil
}

// lines returns the text of a file, which may be nil. ok is false if it is not
// text, or too long to be compared.
func lines(f *object.File) (text string, ok bool, err error) {
	if f == nil {
		return "", true, nil
	}
	if f.Size > maxDiffFile {
		return "", false, nil
	}
	r, err := f.Reader()
	if err != nil {
		return "", false, err
	}
	raw, err := io.ReadAll(io.LimitReader(r, maxDiffFile))
	if err = errors.Join(err, r.Close()); err != nil {
		return "", false, err
	}
	return string(raw), utf8.Valid(raw) && !strings.ContainsRune(string(raw), 0), nil
}

// filePatch is a format.Patch of one file.
type filePatch struct {
	from, to format.File
	binary   bool
	chunks   []format.Chunk
}

func (p *filePatch) FilePatches() []format.FilePatch { return []format.FilePatch{p} }
func (p *filePatch) Message() string                 { return "" }
func (p *filePatch) IsBinary() bool                  { return p.binary }
func (p *filePatch) Files() (from, to format.File)   { return p.from, p.to }
func (p *filePatch) Chunks() []format.Chunk          { return p.chunks }

// fileSide is a file before or after a change.
type fileSide struct{ entry object.ChangeEntry }

// fileOf returns a nil interface, not a nil pointer, for a missing file.
func fileOf(e object.ChangeEntry, f *object.File) format.File {
	if f == nil {
		return nil
	}
	return fileSide{e}
}

func (f fileSide) Hash() plumbing.Hash     { return f.entry.TreeEntry.Hash }
func (f fileSide) Mode() filemode.FileMode { return f.entry.TreeEntry.Mode }

// Path quotes a name that could pass for another line of the diff.
func (f fileSide) Path() string {
	if strings.ContainsFunc(f.entry.Name, unicode.IsControl) || !utf8.ValidString(f.entry.Name) {
		return strconv.Quote(f.entry.Name)
	}
	return f.entry.Name
}

type chunk struct{ diffmatchpatch.Diff }

func (c chunk) Content() string { return c.Text }

func (c chunk) Type() format.Operation {
	switch c.Diff.Type {
	case diffmatchpatch.DiffInsert:
		return format.Add
	case diffmatchpatch.DiffDelete:
		return format.Delete
	}
	return format.Equal
}

package history

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// author is who made every commit.
const author = "dreamcore <dreamcore@localhost>"

// Made is what became of a version.
type Made struct {
	Hash    string   // 40 hexadecimal digits; "" of an empty project without versions
	Changed bool     // it is a new version
	Files   int      // that are created, changed or removed relative to the version before
	Empty   bool     // it has no file
	LeftOut []string // why something is not in it, how much, and one of it: a sentence each
}

// Commit is Record without what was left out.
func (s *Store) Commit(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, root *os.Root, message string, when time.Time) (hash string, changed bool, err error) {
	made, err := s.Record(ctx, user, project, root, message, when)
	return made.Hash, made.Changed, err
}

// Record makes a version of what is in root, the directory of the project,
// and tells its hash. When nothing changed since the newest version, that is
// that one's, and Changed is false. Regular files, whether they are
// programs, and symbolic links (as links) are stored; FIFOs, sockets, devices,
// empty directories and names that Git reserves, such as .git, are not. root
// stays open. An error leaves the newest version as it was: ctx's, or one with
// CodeSetup (the disk is full or not writable) or CodeInternal.
func (s *Store) Record(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, root *os.Root, message string, when time.Time) (made Made, err error) {
	r, err := makeRepo(ctx, s.path(user, project))
	if err != nil {
		return made, diskError("prepare the history", err)
	}
	// The first version reads everything, and perhaps a history that the project
	// brings along. It is not given up because others do the same.
	if head, err := r.head(); err == nil && head.IsZero() {
		leave, err := s.slot(ctx, user)
		if err != nil {
			return made, diskError("save the version", err)
		}
		defer leave()
	}
	ctx, cancel := context.WithTimeout(ctx, saveLimit)
	defer cancel()
	unlock, err := lock(ctx, r.dir)
	if err != nil {
		return made, diskError("lock the history", err)
	}
	defer unlock()
	head, snap, changed, err := r.commit(ctx, root, message, when, &made)
	if snap != nil {
		for _, n := range snap.notes {
			s.log.WarnContext(ctx, "left out of the version", "user", string(user), "project", string(project), "reason", n.String())
			made.LeftOut = append(made.LeftOut, n.String())
		}
	}
	if err != nil {
		return made, diskError("save the version", err)
	}
	if !head.IsZero() {
		made.Hash, made.Changed = head.String(), changed
	}
	return made, nil
}

// commit is Commit in a repository that is locked. It fills in of made what it
// knows of the files.
func (r *repo) commit(ctx context.Context, root *os.Root, message string, when time.Time, made *Made) (head plumbing.Hash, snap *snapshot, changed bool, err error) {
	if err := r.sweep(); err != nil {
		return head, nil, false, err
	}
	var before plumbing.Hash // tree of the newest commit
	if head, err = r.head(); err == nil && !head.IsZero() {
		before, err = r.treeOf(head)
	}
	if err != nil {
		return head, nil, false, r.damaged(err)
	}
	old := readIndex(r.dir, head)
	top, err := root.OpenRoot(".")
	if err != nil {
		return head, nil, false, err
	}
	size, sized := r.knownSize(head)
	if err := r.forgetSize(); err != nil {
		return head, nil, false, err
	}
	objects := newWriter(r.dir)
	snap = newSnapshot(ctx, objects, old)
	defer func() {
		if sized && err == nil && !head.IsZero() {
			_ = r.noteSize(head, size+objects.added) // only a cache, too
		}
	}()
	if head.IsZero() {
		if head, before, err = r.begin(ctx, root, snap); err != nil {
			return head, snap, false, err
		}
	}
	tree, files, err := snap.dir(top, "", 1)
	if err != nil {
		return head, snap, false, err
	}
	made.Empty = !files
	switch {
	case head.IsZero() && !files:
		return head, snap, false, nil
	case tree == before && !snap.stale:
		return head, snap, false, nil
	case tree != before:
		content := encodeCommit(tree, head, message, when)
		if head, err = objects.put(plumbing.CommitObject, content, plumbing.ZeroHash); err != nil {
			return head, snap, false, err
		}
		if err := r.advance(head, objects); err != nil {
			return head, snap, false, err
		}
		changed = true
		made.Files = r.differing(ctx, before, tree)
	}
	snap.next.head = head
	// Only a cache: the version is saved, whatever becomes of it.
	_ = snap.next.write(r.dir)
	return head, snap, changed, nil
}

// differing counts the files that differ between two trees, which are not the
// same. The version is saved by then, so where a tree of a history from outside
// cannot be read, what was counted up to there is good enough.
func (r *repo) differing(ctx context.Context, from, to plumbing.Hash) (n int) {
	_ = r.compare(ctx, from, to, func(pair) { n++ })
	return max(n, 1)
}

// encodeCommit is the content of a Git commit.
func encodeCommit(tree, parent plumbing.Hash, message string, when time.Time) []byte {
	stamp := fmt.Sprintf("%d %s", max(0, when.Unix()), when.Format("-0700"))
	b := fmt.Appendf(nil, "tree %s\n", tree)
	if !parent.IsZero() {
		b = fmt.Appendf(b, "parent %s\n", parent)
	}
	b = fmt.Appendf(b, "author %s %s\ncommitter %s %s\n\n", author, stamp, author, stamp)
	return append(b, cleanMessage(message)...)
}

// cleanMessage makes any text one that Git takes: UTF-8 without NUL, bounded,
// not empty, with a line break at its end.
func cleanMessage(m string) string {
	m = strings.ReplaceAll(m[:min(len(m), maxMessage)], "\x00", "")
	m = strings.TrimSpace(strings.ToValidUTF8(m, ""))
	if m == "" {
		m = "New version"
	}
	return m + "\n"
}

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

// author is the author and committer of every commit.
const author = "dreamcore <dreamcore@localhost>"

// Recorded is the result of Record.
type Recorded struct {
	Hash    string   // 40 hexadecimal digits; "" for an empty project without versions
	Changed bool     // reports whether a new version was created
	Files   int      // created, changed or removed since the previous version
	Empty   bool     // the project has no file
	LeftOut []string // a sentence for each reason to leave files out: the reason, their number, one example
}

// Commit is Record with fewer results.
func (s *Store) Commit(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, root *os.Root, message string, when time.Time) (hash string, changed bool, err error) {
	rec, err := s.Record(ctx, user, project, root, message, when)
	return rec.Hash, rec.Changed, err
}

// Record creates a version from the files below root, the directory of the
// project. If nothing changed since the newest version, it returns the hash of
// that one. A version holds regular files, their executable bits, and symbolic
// links (as links). It does not hold FIFOs, sockets, devices, empty directories
// and names that Git reserves, such as .git. root stays open.
//
// Record may wait up to 10 minutes each for a slot, which a first version needs, and
// for the lock; after that it takes at most 2 minutes, or 10 for a first version.
// After an error the newest version is unchanged. The error is
// ctx's, or has the code CodeBusy (no slot), CodeSetup (the disk is full or not
// writable) or CodeInternal.
func (s *Store) Record(ctx context.Context, user dreamcore.UserID, project dreamcore.ProjectID, root *os.Root, message string, when time.Time) (rec Recorded, err error) {
	r, err := makeRepo(ctx, s.path(user, project))
	if err != nil {
		return rec, diskError("prepare the history", err)
	}
	// The first version reads everything, possibly also a history inside the
	// project.
	limit := saveLimit
	if head, err := r.head(); err == nil && head.IsZero() {
		limit = firstLimit
		leave, err := s.slot(ctx, user)
		if err != nil {
			return rec, diskError("save the version", err)
		}
		defer leave()
	}
	waiting, stop := context.WithTimeout(ctx, slotPatience)
	unlock, err := lock(waiting, r.dir)
	stop()
	if err != nil {
		return rec, diskError("lock the history", err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	head, snap, changed, err := r.commit(ctx, root, message, when, &rec)
	if snap != nil {
		for _, n := range snap.notes {
			s.log.WarnContext(ctx, "left out of the version", "user", string(user), "project", string(project), "reason", n.String())
			rec.LeftOut = append(rec.LeftOut, n.String())
		}
	}
	if err != nil {
		return rec, diskError("save the version", err)
	}
	rec.Hash, rec.Changed = hashText(head), changed
	return rec, nil
}

// commit implements Record, and sets Files and Empty in rec. It must be called
// with the lock held.
func (r *repo) commit(ctx context.Context, root *os.Root, message string, when time.Time, rec *Recorded) (head plumbing.Hash, snap *snapshot, changed bool, err error) {
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
			_ = r.noteSize(head, size+objects.added) // only a cache
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
	rec.Empty = !files
	switch {
	case head.IsZero() && !files, tree == before && !snap.stale:
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
		rec.Files = r.differing(ctx, before, tree)
	}
	snap.next.head = head
	_ = snap.next.write(r.dir) // only a cache: the version is saved
	return head, snap, changed, nil
}

// differing counts the files that differ between two different trees. The
// version is saved by then, so if a tree of an adopted history cannot be read,
// the files counted so far are good enough.
func (r *repo) differing(ctx context.Context, from, to plumbing.Hash) (n int) {
	_ = r.compare(ctx, from, to, func(pair) { n++ })
	return max(n, 1)
}

// encodeCommit returns the content of a Git commit.
func encodeCommit(tree, parent plumbing.Hash, message string, when time.Time) []byte {
	stamp := fmt.Sprintf("%d %s", max(0, when.Unix()), when.Format("-0700"))
	b := fmt.Appendf(nil, "tree %s\n", tree)
	if !parent.IsZero() {
		b = fmt.Appendf(b, "parent %s\n", parent)
	}
	b = fmt.Appendf(b, "author %s %s\ncommitter %s %s\n\n", author, stamp, author, stamp)
	return append(b, cleanMessage(message)...)
}

// cleanMessage returns m as Git accepts it: UTF-8 without NUL, bounded, not
// empty, with a line break at its end.
func cleanMessage(m string) string {
	m = strings.ReplaceAll(m[:min(len(m), maxMessage)], "\x00", "")
	m = strings.TrimSpace(strings.ToValidUTF8(m, ""))
	if m == "" {
		m = "New version"
	}
	return m + "\n"
}

package show

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/system/term"
	"github.com/notef-neighbor/dreamcore/pkg/work/archive"
)

// maxShown is the number of projects up to which the table has those without a note.
const maxShown = 50

// Moved shows which projects were moved in or out. failed is the error that has ended
// the move, or nil.
func Moved(io *term.IO, r archive.Report, failed error) error {
	if io.JSON {
		if failed != nil && len(r.Projects) == 0 {
			return nil
		}
		r.Projects = orEmpty(r.Projects)
		return io.WriteJSON(r)
	}
	table := term.Table{Columns: Columns("PROJECT", "USER", "STATE", ">FILES", ">SIZE", ">VERSIONS", "~NOTE")}
	counts := map[string]int{}
	for _, p := range r.Projects {
		counts[p.State]++
		note := cmp.Or(p.Reason, strings.Join(p.Notes, "; "))
		if p.State == archive.Skipped {
			note += "; --force replaces them"
		}
		if note == "" && len(r.Projects) > maxShown {
			continue
		}
		table.Rows = append(table.Rows, term.Row(string(p.Project), string(p.User), p.State, fmt.Sprint(p.Files), term.Size(p.Bytes), fmt.Sprint(p.Versions), note))
	}
	out := io.Stdout()
	if len(table.Rows) > 0 {
		out.Table(table)
	}
	for _, n := range r.Notes {
		io.Stderr().Warning(n)
	}
	if failed == nil {
		text := fmt.Sprintf("%d projects copied", counts[archive.Copied])
		var more []string
		for _, s := range []string{archive.Present, archive.Skipped, archive.Failed} {
			if counts[s] > 0 {
				more = append(more, fmt.Sprintf("%d %s", counts[s], s))
			}
		}
		out.Success(text, more...)
	}
	return nil
}

// Copy returns the line of a long copy of things, and what shows in it how far the copy
// is.
func Copy(io *term.IO, text, thing string) (*term.Transfer, func(archive.Progress)) {
	line := io.Stderr().Transfer(text)
	return line, func(p archive.Progress) {
		parts := []string{term.Bytes(p.Bytes, p.Size)}
		switch {
		case p.Checking:
			parts = append(parts, "checking")
		case p.Total > 0:
			parts = append(parts, fmt.Sprintf("%s %d of %d", thing, p.Done, p.Total))
		case p.Done > 0:
			parts = append(parts, fmt.Sprintf("%d %ss", p.Done, thing))
		}
		line.Show(text + ": " + strings.Join(parts, ", "))
	}
}

// Transfer runs a copy between a volume and the disk, and shows its progress and its
// result on standard error: standard output may be the copy.
func Transfer(io *term.IO, text string, t *archive.Transfer, do func(t *archive.Transfer) (archive.Transferred, error)) error {
	out := io.Stderr()
	line, update := Copy(io, text, "file")
	defer line.Stop()
	t.Progress = update
	copied, err := do(t)
	line.Stop()
	if err != nil {
		return err
	}
	return Value(io, copied, func(*term.Printer) {
		for _, l := range copied.LeftOut {
			out.Warning(l)
		}
		out.Success(fmt.Sprintf("%d files copied", copied.Files), term.Size(copied.Bytes))
	})
}

// CheckedBackup checks a backup and shows what it holds.
func CheckedBackup(ctx context.Context, io *term.IO, name string) error {
	line, update := Copy(io, "Checking "+name, "project")
	defer line.Stop()
	contents, err := archive.Check(ctx, name, update)
	line.Stop()
	if err != nil {
		return err
	}
	return Value(io, contents, func(p *term.Printer) {
		p.Success("the backup is complete", fmt.Sprintf("%d projects", contents.Projects), term.Size(contents.Bytes), "created "+term.Time(contents.Created))
	})
}

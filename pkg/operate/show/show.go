// Package show prints the records of the stores for operators: as tables and texts
// on a terminal, as JSON for programs.
package show

import (
	"maps"

	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// Value prints a result: v for programs, or what text prints for people.
func Value(io *term.IO, v any, text func(p *term.Printer)) error {
	if io.JSON {
		return io.WriteJSON(v)
	}
	text(io.Stdout())
	return nil
}

// List prints a list of values of the type T.
type List[T any] struct {
	All         any         // the JSON form of the whole list; nil for an object with Key
	Key         string      // of the list in the JSON object
	Row         func(T) any // the JSON form of a value; nil if that is the value
	Columns     []term.Column
	Cells       func(T) []string
	Empty, Hint string // printed if there are no values; Hint is optional
}

// Show prints the list on standard output: a JSON object with Key and the members
// of more, or a table.
func (l List[T]) Show(io *term.IO, rows []T, more map[string]any) error {
	switch {
	case io.JSON && l.All != nil:
		return io.WriteJSON(l.All)
	case io.JSON:
		all := []any{}
		for _, r := range rows {
			if l.Row == nil {
				all = append(all, r)
			} else {
				all = append(all, l.Row(r))
			}
		}
		object := map[string]any{l.Key: all}
		maps.Copy(object, more)
		return io.WriteJSON(object)
	case len(rows) == 0 && l.Empty != "":
		io.Stdout().Info(l.Empty)
		io.Stdout().Hint(l.Hint)
		return nil
	}
	t := term.Table{Columns: l.Columns}
	for _, r := range rows {
		t.Rows = append(t.Rows, term.Row(l.Cells(r)...))
	}
	io.Stdout().Table(t)
	return nil
}

// Columns returns columns by title. A title that begins with ">" is aligned to the
// right, one that begins with "~" wraps.
func Columns(titles ...string) []term.Column {
	all := make([]term.Column, len(titles))
	for i, title := range titles {
		switch title[0] {
		case '>':
			all[i] = term.Column{Title: title[1:], Right: true}
		case '~':
			all[i] = term.Column{Title: title[1:], Flex: true}
		default:
			all[i] = term.Column{Title: title}
		}
	}
	return all
}

// orEmpty returns a list that JSON shows as an empty list, not as null.
func orEmpty[T any](list []T) []T { return append([]T{}, list...) }

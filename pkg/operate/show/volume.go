package show

import (
	"io/fs"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// Volumes shows the volumes of a state directory.
func Volumes(io *term.IO, volumes []volume.Info) error {
	return List[volume.Info]{
		Key: "volumes", Row: func(v volume.Info) any { return map[string]string{"name": v.Name, "path": v.Path} },
		Columns: Columns("NAME", "PATH"), Cells: func(v volume.Info) []string { return []string{v.Name, v.Path} },
		Empty: "There are no volumes yet", Hint: "run: dreamcore setup",
	}.Show(io, volumes, nil)
}

type fileRow struct {
	Name     string     `json:"name"`
	Type     string     `json:"type"`
	Size     int64      `json:"size"`
	Modified *time.Time `json:"modified,omitempty"`
}

// Files shows the files of a directory in a volume.
func Files(io *term.IO, entries []tree.Entry) error {
	return List[tree.Entry]{
		Key: "entries", Columns: Columns("~NAME", "TYPE", "MODIFIED", ">SIZE"),
		Row: func(e tree.Entry) any {
			r := fileRow{Name: e.Path, Type: fileType(e.Mode)}
			if !e.Modified.IsZero() {
				r.Modified = &e.Modified
			}
			if e.Mode.IsRegular() {
				r.Size = e.Size
			}
			return r
		},
		Cells: func(e tree.Entry) []string {
			modified, size := "", ""
			if !e.Modified.IsZero() {
				modified = term.Time(e.Modified)
			}
			if e.Mode.IsRegular() {
				size = term.Size(e.Size)
			}
			return []string{e.Path, fileType(e.Mode), modified, size}
		},
	}.Show(io, entries, nil)
}

func fileType(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "dir"
	case m.IsRegular():
		return "file"
	case m&fs.ModeSymlink != 0:
		return "link"
	}
	return "other"
}

package volume

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// TestAChangeBesideAJobIsNeitherRefusedNorHarmsIt: what a person saves in one
// project while a job, whose guard holds all free space, runs in another.
func TestAChangeBesideAJobIsNeitherRefusedNorHarmsIt(t *testing.T) {
	s, _ := newBounded(t)
	restrict(s, projectBytes, 300)
	p, h := open(t, s)
	defer p.Close()
	defer h.Close()
	write(t, p.Path(), map[string]string{"game": strings.Repeat("x", projectBytes-1<<20)})
	for i := range 250 {
		write(t, p.Path(), map[string]string{fmt.Sprint("n", i): ""})
	}
	g := guard(t, s, p) // 2 MiB and 100 files are left to the job
	const other dreamcore.ProjectID = "44444444-4444-4444-8444-444444444444"
	apply := func(changes ...Change) error {
		t.Helper()
		_, err := s.Apply(t.Context(), user, other, changes, nil, nil)
		return err
	}
	if err := apply(Change{Path: "large", Write: Content(strings.Repeat("y", 4<<20))}); err != nil {
		t.Fatal(err)
	}
	var many []Change
	for i := range 145 { // and as many directories
		many = append(many, Change{Path: fmt.Sprintf("d%d/f%d", i, i), Write: Content("")})
	}
	if err := apply(many...); err != nil {
		t.Fatal(err)
	}
	if f := look(t, g); f.Any() {
		t.Errorf("the job is stopped for files of another project: %+v", f)
	}
	if err := apply(Change{Path: "large", Write: Content(strings.Repeat("z", 16<<20))}); dreamcore.CodeOf(err) != dreamcore.CodeTooLarge {
		t.Error("more than the user or the project may have: ", err)
	}
	if wrote := fillUp(t, filepath.Join(p.Path(), "more")); wrote < 1<<20 || wrote > 3<<20 {
		t.Errorf("the job wrote %d bytes, about 2 MiB were left to it", wrote)
	}
	if f := look(t, g); !f.Bytes || !f.Kept {
		t.Errorf("%+v", f)
	}
}

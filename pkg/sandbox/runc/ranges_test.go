package runc

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/oci"
)

func TestRangesAreExclusive(t *testing.T) {
	dir := t.TempDir()
	first, err := openRanges(dir)
	if err != nil {
		t.Fatal(err)
	}
	second, err := openRanges(dir) // its locks behave like another instance's
	if err != nil {
		t.Fatal(err)
	}
	const count = 60
	first.count, second.count = count, count
	first.first, second.first = oci.Ranges-3, oci.Ranges-3
	owner := map[oci.Range]string{}
	for i := range count {
		r, id := first, strconv.Itoa(i)
		if i%2 == 1 {
			r = second
		}
		got, err := r.reserve(id)
		if err != nil {
			t.Fatalf("range %d: %v", i, err)
		}
		if again, err := r.reserve(id); again != got || err != nil {
			t.Fatalf("asked again: %d, %v", again, err)
		}
		if o, taken := owner[got]; taken || got >= oci.Ranges {
			t.Fatalf("%s got range %d of %s", id, got, o)
		}
		owner[got] = id
	}
	if _, err := first.reserve("one more"); dreamcore.CodeOf(err) != dreamcore.CodeBusy || dreamcore.HintOf(err) == "" {
		t.Errorf("one more: %v", err)
	}
	freed, _ := second.of("1")
	second.release("1")
	second.release("1")
	if got, err := first.reserve("one more"); err != nil || got != freed {
		t.Errorf("after one has ended: %d, %v", got, err)
	}
	if err := first.close(); err != nil {
		t.Error(err)
	}
	file := filepath.Join(dir, rangesFile)
	if _, err := os.Lstat(file); err != nil {
		t.Errorf("lock file of a running instance: %v", err)
	}
	if got, err := second.reserve("later"); err != nil {
		t.Errorf("range of a closed instance: %d, %v", got, err)
	}
	if err := second.close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(file); err == nil {
		t.Error("the last instance did not remove the file")
	}
}

package runc

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/oci"
)

func TestEverySandboxHasARangeForItself(t *testing.T) {
	dir := t.TempDir()
	first, err := openRanges(dir)
	if err != nil {
		t.Fatal(err)
	}
	second, err := openRanges(dir) // another instance, as far as locks go
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
		got, err := r.take(id)
		if err != nil {
			t.Fatalf("range %d: %v", i, err)
		}
		if again, err := r.take(id); again != got || err != nil {
			t.Fatalf("asked again: %d, %v", again, err)
		}
		if o, taken := owner[got]; taken || got >= oci.Ranges {
			t.Fatalf("%s has the range %d of %s", id, got, o)
		}
		owner[got] = id
	}
	if _, err := first.take("one more"); dreamcore.CodeOf(err) != dreamcore.CodeBusy || dreamcore.HintOf(err) == "" {
		t.Errorf("one more: %v", err)
	}
	freed, _ := second.of("1")
	second.give("1")
	second.give("1")
	if got, err := first.take("one more"); err != nil || got != freed {
		t.Errorf("after one has ended: %d, %v", got, err)
	}
	if err := first.close(); err != nil {
		t.Error(err)
	}
	file := filepath.Join(dir, rangesFile)
	if _, err := os.Lstat(file); err != nil {
		t.Errorf("the file of an instance that lives: %v", err)
	}
	if got, err := second.take("later"); err != nil {
		t.Errorf("a range of an instance that has ended: %d, %v", got, err)
	}
	if err := second.close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(file); err == nil {
		t.Error("the last instance leaves the file")
	}
}

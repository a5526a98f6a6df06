package volume

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// No work begins that could use the space that must stay free, with and without a
// disk limit of each user.
func TestReserveKeepsTheFreeSpaceOfTheDisk(t *testing.T) {
	dir := t.TempDir()
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	free := int64(fs.Bavail) * fs.Bsize
	const other = 1 << 30 // what other processes may write meanwhile
	for _, tt := range []struct {
		name        string
		limit, free int64
		says        string
	}{
		{"nothing", 0, 0, ""},
		{"more than there is", 0, free + other, "must stay free"},
		{"more than there is, with a disk limit", 64 << 20, free + other, "must stay free"},
		{"more than the user's disk leaves", free - 2*other, 3 * other, "the disk of the user"},
	} {
		s, err := Open(filepath.Join(t.TempDir(), "volumes"), Options{UID: 10000, GID: 10000, DiskBytes: tt.limit, MinFreeBytes: tt.free})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Create(Data); err != nil {
			t.Fatal(err)
		}
		room, err := s.Reserve(t.Context(), "a11ce000-0000-4000-8000-000000000001")
		if err == nil {
			room.Close()
		}
		if (err == nil) != (tt.says == "") || err != nil && (dreamcore.CodeOf(err) != dreamcore.CodeSetup || !strings.Contains(err.Error(), tt.says) || dreamcore.HintOf(err) == "") {
			t.Errorf("%s: %v", tt.name, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

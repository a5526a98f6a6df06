package archive

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// discard is a sink that stores only the manifest.
type discard struct{ manifest bytes.Buffer }

func (d *discard) put(_ context.Context, e tree.Entry, src io.Reader) (int64, []byte, error) {
	if e.Path != manifestName {
		return 0, make([]byte, 32), nil
	}
	_, err := io.Copy(&d.manifest, src)
	return 0, nil, err
}
func (d *discard) finish() error { return nil }
func (d *discard) close() error  { return nil }

// heapInUse returns the size of the live heap.
func heapInUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestManifestsTakeLittleMemory: the paths of the backup take 100 MB.
func TestManifestsTakeLittleMemory(t *testing.T) {
	out := &discard{}
	dir := t.TempDir()
	l, err := newManifestSink(out, dir)
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("p", dreamcore.MaxPathBytes-10)
	f := newEntryHashes()
	const entries = 25_000
	before := heapInUse()
	for i := range entries {
		e := tree.Entry{Path: fmt.Sprint(long, i), Mode: 0o644}
		_, sum, err := l.put(t.Context(), e, strings.NewReader(""))
		if err != nil {
			t.Fatal(err)
		}
		f.add(manifestLine(e, 0, sum))
	}
	if grown := heapInUse() - before; grown > 4<<20 {
		t.Errorf("%d MiB are in use", grown>>20)
	}
	runtime.KeepAlive(f)
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Error("the manifest has a name:", left, err)
	}
	if err := l.writeManifest(); err != nil {
		t.Fatal(err)
	}
	if err := l.closeManifest(); err != nil {
		t.Fatal(err)
	}
	text := out.manifest.Bytes()
	if err := f.compare("backup", bytes.NewReader(text)); err != nil {
		t.Error(err)
	}
	for name, bad := range map[string]string{
		"differs from its manifest at": strings.Replace(string(text), "ppp", "pqp", 1),
		"less than its manifest":       string(text) + "file 644 0  \"x\" \"\"\n",
		"differs from its manifest":    string(text[:len(text)-len(long)-200]),
		"token too long":               strings.Repeat("x", 2*maxLine),
	} {
		if err := f.compare("backup", strings.NewReader(bad)); dreamcore.CodeOf(err) != dreamcore.CodeInvalid || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %.200v", name, err)
		}
	}
}

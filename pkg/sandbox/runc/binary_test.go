package runc

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

// packed returns the files that scripts/runc.sh writes, for the given program.
func packed(t *testing.T, program []byte) fstest.MapFS {
	t.Helper()
	var gz bytes.Buffer
	w, err := gzip.NewWriterLevel(&gz, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(program); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return fstest.MapFS{
		"d/runc.gz":  {Data: gz.Bytes()},
		"d/runc.sum": {Data: fmt.Appendf(nil, "%x  runc 1.2.3\n", sha256.Sum256(program))},
	}
}

func TestUnpackedProgramRunsAndIsSealed(t *testing.T) {
	program, err := os.ReadFile("/bin/echo")
	if err != nil {
		t.Fatal(err)
	}
	f, err := unpack(packed(t, program), "d")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command("/proc/self/fd/3", "it runs")
	cmd.ExtraFiles = []*os.File{f}
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != "it runs\n" {
		t.Errorf("output %q, %v", out, err)
	}
	got, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	if err != nil || got&seals != seals {
		t.Errorf("seals %#x, %v", got, err)
	}
	if _, err := f.Write([]byte("x")); err == nil {
		t.Error("the file is writable")
	}
	path := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	if w, err := os.OpenFile(path, os.O_WRONLY, 0); err == nil {
		if _, err := w.Write([]byte("x")); err == nil {
			t.Error("the file can be reopened for writing")
		}
		_ = w.Close()
	}
	if err := os.Truncate(path, 0); err == nil {
		t.Error("the file can be truncated")
	}
}

func TestUnpackRefusesModifiedBinaries(t *testing.T) {
	good := func() fstest.MapFS { return packed(t, []byte("program")) }
	changed := good()
	changed["d/runc.gz"] = packed(t, []byte("Program"))["d/runc.gz"]
	cut := good()
	cut["d/runc.gz"] = &fstest.MapFile{Data: cut["d/runc.gz"].Data[:12]}
	noGzip := good()
	noGzip["d/runc.gz"] = &fstest.MapFile{Data: []byte("a program that is not compressed")}
	noSum := good()
	noSum["d/runc.sum"] = &fstest.MapFile{Data: []byte("runc 1.2.3\n")}
	shortSum := good()
	shortSum["d/runc.sum"] = &fstest.MapFile{Data: []byte("abcd  runc 1.2.3\n")}
	noGz := good()
	delete(noGz, "d/runc.gz")
	tests := map[string]struct {
		files fstest.MapFS
		want  string // part of the error
	}{
		"another program":         {changed, "digest"},
		"cut off":                 {cut, "unexpected EOF"},
		"not compressed":          {noGzip, "gzip"},
		"no digest":               {noSum, "malformed"},
		"half a digest":           {shortSum, "malformed"},
		"digest without a binary": {noGz, "runc.gz"},
		"too large":               {packed(t, make([]byte, maxBinary+1)), "larger than"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if f, err := unpack(test.files, "d"); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("unpack: %v, %v", f, err)
			}
		})
	}
}

func TestProgramWithoutRuncHintsHowToBuildIt(t *testing.T) {
	f, err := unpack(fstest.MapFS{"d/README.md": {}}, "d")
	if f != nil || dreamcore.CodeOf(err) != dreamcore.CodeSetup || !strings.Contains(dreamcore.HintOf(err), "scripts/build.sh") {
		t.Errorf("unpack: %v, %v, hint %q", f, err, dreamcore.HintOf(err))
	}
}

func TestBinaryIsSharedAndFreedByTheLastUser(t *testing.T) {
	if Version() == "" {
		sandboxtest.Need(t, false, "runc, which scripts/build.sh embeds")
	}
	var b binary
	files := make([]*os.File, 4)
	var all sync.WaitGroup
	for i := range files {
		all.Go(func() {
			var err error
			if files[i], err = b.open(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for i, f := range files {
		if f != files[0] {
			t.Errorf("user %d has a separate file", i)
		}
		if _, err := f.ReadAt(make([]byte, 4), 0); err != nil {
			t.Errorf("user %d: %v", i, err)
		}
		if err := b.close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := io.ReadAll(files[0]); err == nil {
		t.Error("the file is open after the last close")
	}
	if f, err := b.open(); err != nil || f == files[0] {
		t.Errorf("open after the last: %v, %v", f, err)
	}
	if err := b.close(); err != nil {
		t.Error(err)
	}
}

package image

import (
	"archive/tar"
	"bytes"
	"context"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

func TestUnpackAppliesLayersInOrder(t *testing.T) {
	big := strings.Repeat("x", 1<<20)
	for _, c := range []struct {
		name   string
		layers [][]entry
		want   []string
	}{
		{"a file replaces a file", [][]entry{{file("a", "1")}, {file("a", "2")}}, []string{"a=2"}},
		{"the last of two entries counts", [][]entry{{file("a", "1"), file("a", "22"), file("b", "")}}, []string{"a=22", "b="}},
		{"a file replaces a directory", [][]entry{{file("a/b/c", "1")}, {file("a", "2")}}, []string{"a=2"}},
		{"a directory replaces a file", [][]entry{{file("a", "1")}, {dir("a/"), file("a/b", "2")}}, []string{"a/", "a/b=2"}},
		{"a directory keeps what is in it", [][]entry{{file("a/b", "1")}, {dir("a/"), file("a/c", "2")}}, []string{"a/", "a/b=1", "a/c=2"}},
		{"a link is replaced and not followed", [][]entry{{file("t", "1"), symlink("a", "t")}, {file("a", "2")}}, []string{"t=1", "a=2"}},
		{"a directory replaces a link to one", [][]entry{{file("t/f", "1"), symlink("a", "t")}, {dir("a/"), file("a/g", "2")}}, []string{"t/", "t/f=1", "a/", "a/g=2"}},
		{"names with a slash or a dot in front", [][]entry{{file("/a", "1"), file("./b", "2"), file("c//./d", "3"), dir("./")}}, []string{"a=1", "b=2", "c/", "c/d=3"}},
		{"a large file", [][]entry{{file("a", big)}}, []string{"a=" + big}},
		{"odd names", [][]entry{{file("a\nb", "1"), file("\xff\xfe", "2"), file(" ", "3"), file("-rf", "4"), file("…", "5")}}, []string{"a\nb=1", "\xff\xfe=2", " =3", "-rf=4", "…=5"}},
		{"a global header is no file", [][]entry{{{Header: tar.Header{Name: "pax", Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}}, file("a", "1")}}, []string{"a=1"}},

		{"a whiteout hides a file", [][]entry{{file("a", "1"), file("b", "2")}, {file(".wh.a", "")}}, []string{"b=2"}},
		{"a whiteout hides a directory", [][]entry{{file("a/b/c", "1"), file("d", "2")}, {file(".wh.a", "")}}, []string{"d=2"}},
		{"a whiteout hides a link, not its target", [][]entry{{file("t/f", "1"), symlink("a", "t")}, {file(".wh.a", "")}}, []string{"t/", "t/f=1"}},
		{"a whiteout of nothing", [][]entry{{file("a", "1")}, {file(".wh.b", ""), file("c/.wh.d", "")}}, []string{"a=1"}},
		{"a whiteout spares its own layer", [][]entry{{file("a", "1")}, {file("a", "2"), file(".wh.a", "")}}, []string{"a=2"}},
		{"a whiteout of a directory spares its own layer", [][]entry{{file("a/b", "1"), file("a/c", "1")}, {file("a/b", "2"), file(".wh.a", "")}}, []string{"a/", "a/b=2"}},
		{"a whiteout in the lowest layer", [][]entry{{file("a", "1"), file(".wh.a", "")}}, []string{"a=1"}},
		{"a whiteout through a link", [][]entry{{file("usr/lib/x", "1"), symlink("lib", "usr/lib")}, {file("lib/.wh.x", "")}}, []string{"usr/", "usr/lib/", "lib -> usr/lib"}},
		{"an opaque directory", [][]entry{{file("a/b", "1"), file("a/c/d", "1"), file("e", "1")}, {dir("a/"), file("a/.wh..wh..opq", ""), file("a/n", "2")}}, []string{"a/", "a/n=2", "e=1"}},
		{"an opaque directory that comes last", [][]entry{{file("a/b", "1"), file("a/c/d", "1")}, {file("a/n", "2"), file("a/c/n", "2"), file("a/.wh..wh..opq", "")}}, []string{"a/", "a/n=2", "a/c/", "a/c/n=2"}},
		{"an opaque root", [][]entry{{file("a/b", "1"), file("c", "1")}, {file("c", "2"), file(".wh..wh..opq", "")}}, []string{"c=2"}},
		{"an opaque directory that is not there", [][]entry{{file("a", "1")}, {file("b/.wh..wh..opq", "")}}, []string{"a=1"}},
		{"notes of an old file system", [][]entry{{file("a", "1")}, {file(".wh..wh.aufs", ""), dir(".wh..wh.plnk/"), file(".wh..wh.plnk/1.2", "")}}, []string{"a=1"}},
		{"hidden, then made again", [][]entry{{file("a/b", "1")}, {file(".wh.a", "")}, {file("a/c", "3")}}, []string{"a/", "a/c=3"}},

		{"hard links", [][]entry{{file("a/b", "1"), hardLink("c", "a/b"), hardLink("d", "/a/b"), hardLink("e", "./c")}}, []string{"a/", "a/b=1", "c=1", "d=1", "e=1"}},
		{"a hard link to a lower layer", [][]entry{{file("a", "1")}, {hardLink("b", "a")}, {file(".wh.a", "")}}, []string{"b=1"}},
		{"a hard link to itself", [][]entry{{file("a", "1"), hardLink("a", "a"), hardLink("a", "./a")}}, []string{"a=1"}},
		{"a hard link to a link", [][]entry{{symlink("a", "nowhere"), hardLink("b", "a")}}, []string{"a -> nowhere", "b -> nowhere"}},
		{"devices are left out, and links to them", [][]entry{{special("c", tar.TypeChar), special("b", tar.TypeBlock), special("d/p", tar.TypeFifo), hardLink("l", "c"), hardLink("m", "l"), file("z", "1")}}, []string{"d/", "z=1"}},
		{"a device replaces a file", [][]entry{{file("a", "1")}, {special("a", tar.TypeChar)}}, nil},
		{"a file replaces a device", [][]entry{{special("a", tar.TypeChar), file("a", "1"), hardLink("b", "a")}}, []string{"a=1", "b=1"}},

		{"through an absolute link to a directory", [][]entry{{dir("usr/"), dir("usr/lib/"), symlink("lib", "/usr/lib")}, {file("lib/x", "2")}}, []string{"usr/", "usr/lib/", "usr/lib/x=2", "lib -> /usr/lib"}},
		{"through a link that climbs too far", [][]entry{{dir("usr/"), symlink("a", "../../../usr")}, {file("a/x", "2")}}, []string{"usr/", "usr/x=2", "a -> ../../../usr"}},
		{"through a chain of links", [][]entry{{dir("r/"), symlink("r/a", "../b"), symlink("b", "/c/./d/.."), dir("c/"), dir("c/d/")}, {file("r/a/x", "2")}}, []string{"r/", "r/a -> ../b", "b -> /c/./d/..", "c/", "c/d/", "c/x=2"}},
		{"through a link to nothing", [][]entry{{symlink("a", "/made/later")}, {file("a/x", "2")}}, []string{"a -> /made/later", "made/", "made/later/", "made/later/x=2"}},
		{"a directory that was left by a link and came back", [][]entry{{file("a/x", "1"), symlink("b", "a"), file("b/y", "2"), file(".wh.b", ""), dir("b/"), file("b/z", "3")}}, []string{"a/", "a/x=1", "a/y=2", "b/", "b/z=3"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var raw [][]byte
			for i, l := range c.layers {
				b := tarOf(t, l...)
				if i%2 == 1 {
					b = gzipped(t, b)
				}
				raw = append(raw, b)
			}
			root, _, err := unpackTo(t, Limits{}, raw...)
			if err != nil {
				t.Fatal(err)
			}
			wantTree(t, root, c.want...)
		})
	}
}

// Each of these attempts to change a file outside the image, which unpackTo checks.
func TestHostileLayersStayInside(t *testing.T) {
	long := strings.Repeat("n", 256)
	for _, c := range []struct {
		name   string
		layers [][]entry
		want   string // of the error; "" if the layer is harmless
	}{
		{"a name that climbs", [][]entry{{file("../outside/evil", "x")}}, "leaves the image"},
		{"a name that climbs later", [][]entry{{file("a/../../outside/evil", "x")}}, "leaves the image"},
		{"a name that is only a climb", [][]entry{{dir("..")}}, "leaves the image"},
		{"a file for the root", [][]entry{{file(".", "x")}}, "replace the root"},
		{"a link for the root", [][]entry{{symlink("/", "../outside")}}, "replace the root"},
		{"a name that is too long", [][]entry{{file(long, "x")}}, "more than 255 bytes"},
		{"a path that is too long", [][]entry{{file(strings.Repeat(strings.Repeat("p", 200)+"/", 30)+"x", "x")}}, "too long"},
		{"a path that is too deep", [][]entry{{file(strings.Repeat("d/", 200)+"x", "x")}}, "too deep"},
		{"a path that links make too deep", [][]entry{{dir(strings.Repeat("d/", 100)), symlink("s", strings.Repeat("d/", 100)), file("s/"+strings.Repeat("d/", 100)+"x", "x")}}, "too deep"},
		{"a path that links make too long", [][]entry{{symlink("s", strings.Repeat(strings.Repeat("p", 250)+"/", 16)), file("s/"+strings.Repeat("q", 250)+"/x", "x")}}, "too long"},

		{"a relative link outside", [][]entry{{symlink("a", "../outside"), file("a/evil", "x")}}, ""},
		{"an absolute link outside", [][]entry{{symlink("a", "OUTSIDE"), file("a/evil", "x"), file("a/secret", "x")}}, ""},
		{"a link outside in a lower layer", [][]entry{{symlink("a", "../outside")}, {file("a/secret", "x"), dir("a/new/")}}, ""},
		{"a file through a link to a file outside", [][]entry{{symlink("f", "../outside/secret"), file("f", "x")}}, ""},
		{"a directory through a link outside", [][]entry{{symlink("d", "../outside")}, {{Header: tar.Header{Name: "d", Typeflag: tar.TypeDir, Mode: 0o777}}}}, ""},
		{"a link that is swapped between layers", [][]entry{{dir("a/"), file("a/x", "1")}, {symlink("a", "../outside")}, {file("a/secret", "x")}}, ""},
		{"a link that is swapped within a layer", [][]entry{{dir("a/"), file("a/x", "1"), symlink("a", "../outside"), file("a/secret", "x"), file("a/secret", "y")}}, ""},
		{"links in circles", [][]entry{{symlink("a", "b"), symlink("b", "a"), file("a/x", "x")}}, "too many symbolic links"},
		{"a link to itself", [][]entry{{symlink("a", "a"), file("a/x", "x")}}, "too many symbolic links"},
		{"a link that grows", [][]entry{{symlink("a", "a/a/a"), file("a/x", "x")}}, "too many symbolic links"},

		{"a hard link that climbs", [][]entry{{hardLink("x", "../outside/secret")}}, "leaves the image"},
		{"an absolute hard link", [][]entry{{hardLink("x", "/etc/passwd")}}, "the target of the link"},
		{"a hard link through a link", [][]entry{{symlink("a", "../outside"), hardLink("x", "a/secret")}}, "the target of the link"},
		{"a hard link to a link outside, then written", [][]entry{{symlink("a", "../outside/secret"), hardLink("x", "a"), file("x", "evil")}}, ""},
		{"a hard link to a directory", [][]entry{{dir("a/"), hardLink("x", "a")}}, "not a file"},
		{"a hard link to the root", [][]entry{{hardLink("x", ".")}}, "not a file"},
		{"a hard link to nothing", [][]entry{{hardLink("x", "y")}}, "the target of the link"},
		{"a hard link over its own directory", [][]entry{{file("a/b", "1"), hardLink("a", "a/b")}}, "no such file"},
		{"a symbolic link to nothing at all", [][]entry{{symlink("x", "")}}, "empty or too long"},

		{"a whiteout that climbs", [][]entry{{file("a", "")}, {file("../outside/.wh.secret", "")}}, "leaves the image"},
		{"a whiteout through a link outside", [][]entry{{symlink("a", "../outside")}, {file("a/.wh.secret", "")}}, ""},
		{"an opaque link outside", [][]entry{{symlink("a", "../outside")}, {file("a/.wh..wh..opq", "")}}, ""},
		{"a whiteout of the parent", [][]entry{{file("a/b", "")}, {file("a/.wh...", "")}}, "hides no name"},
		{"a whiteout of the directory itself", [][]entry{{file("a/b", "")}, {file("a/.wh..", "")}}, "hides no name"},
		{"a whiteout of no name", [][]entry{{file("a/b", "")}, {file("a/.wh.", "")}}, "hides no name"},
		{"a hidden link in a hidden directory", [][]entry{{dir("a/"), symlink("a/l", "../../outside")}, {file("b", ""), file(".wh.a", "")}}, ""},
		{"a replaced directory with a link", [][]entry{{dir("a/"), symlink("a/l", "../../outside")}, {file("a", "x")}}, ""},

		{"a file below a file", [][]entry{{file("a", "1"), file("a/b", "2")}}, "not a directory"},
		{"a file far below a file", [][]entry{{file("a", "1"), file("a/b/c/d", "2")}}, "not a directory"},
		{"an unknown kind", [][]entry{{{Header: tar.Header{Name: "a", Typeflag: 'Z'}}}}, "is not known"},
		{"a negative owner", [][]entry{{{Header: tar.Header{Name: "a", Typeflag: tar.TypeDir, Mode: 0o755, Uid: -1, Format: tar.FormatGNU}}}}, "does not exist"},
		{"an owner beyond all", [][]entry{{{Header: tar.Header{Name: "a", Typeflag: tar.TypeReg, Uid: math.MaxUint32, Format: tar.FormatPAX}}}}, "does not exist"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if strings.Contains(c.name, "owner") && os.Geteuid() != 0 {
				sandboxtest.Need(t, false, "root: nobody else keeps owners")
			}
			base := t.TempDir()
			var raw [][]byte
			for _, l := range c.layers {
				for i := range l {
					l[i].Linkname = strings.Replace(l[i].Linkname, "OUTSIDE", filepath.Join(base, "outside"), 1)
				}
				raw = append(raw, tarOf(t, l...))
			}
			_, _, err := unpackIn(t, base, Limits{}, raw...)
			switch {
			case c.want == "" && err != nil:
				t.Fatal(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "entry ")):
				t.Fatalf("got %v, want %q with the entry's name", err, c.want)
			case err != nil && !isFlaw(err) && !isExcess(err):
				t.Errorf("the error is not a flaw of the image: %v", err)
			}
		})
	}
}

func TestNamesWithNULAreRefused(t *testing.T) {
	if _, err := cleanName("a\x00b", Limits{}.withDefaults()); err == nil || !isFlaw(err) {
		t.Errorf("got %v", err)
	}
	// In a tar, NUL ends the name.
	raw := tarOf(t, file("aXb", "1"))
	copy(raw, "a\x00b")
	fixChecksum(raw)
	root, _, err := unpackTo(t, Limits{}, raw)
	if err != nil {
		t.Fatal(err)
	}
	wantTree(t, root, "a=1")
}

// fixChecksum repairs the checksum of the first header of a tar.
func fixChecksum(raw []byte) {
	copy(raw[148:156], "        ")
	sum := 0
	for _, b := range raw[:512] {
		sum += int(b)
	}
	const digits = "01234567"
	for i := range 6 {
		raw[153-i] = digits[sum&7]
		sum >>= 3
	}
	raw[154], raw[155] = 0, ' '
}

func TestLimits(t *testing.T) {
	var many []entry
	for range 30 {
		many = append(many, file("same", ""))
	}
	sparse := entry{Header: tar.Header{Name: "a", Typeflag: tar.TypeReg, Mode: 0o644, Size: 1 << 40, Format: tar.FormatPAX}}
	for _, c := range []struct {
		name   string
		limits Limits
		raw    [][]byte
		want   string
	}{
		{"entries, even of one name", Limits{Entries: 20}, [][]byte{tarOf(t, many...)}, "more than 20 entries"},
		{"entries of all layers", Limits{Entries: 40}, [][]byte{tarOf(t, many...), tarOf(t, many...)}, "more than 40 entries"},
		{"directories on the way", Limits{Entries: 20}, [][]byte{tarOf(t, file("a/b/c/d/e/f/g/h/i/j/k", ""), file("1/2/3/4/5/6/7/8/9/0", ""))}, "more than 20 entries"},
		{"device nodes", Limits{Entries: 1}, [][]byte{tarOf(t, special("a", tar.TypeChar), special("b", tar.TypeChar))}, "more than 1 entries"},
		{"bytes", Limits{Bytes: 10}, [][]byte{tarOf(t, file("a", "123456"), file("b", "123456"))}, "more than 10 bytes"},
		{"bytes of all layers", Limits{Bytes: 10}, [][]byte{tarOf(t, file("a", "123456")), tarOf(t, file("a", "123456"))}, "more than 10 bytes"},
		{"bytes of one file", Limits{FileBytes: 5}, [][]byte{tarOf(t, file("a", "123456"))}, "a file may have 5"},
		{"a file that only says to be large", Limits{}, [][]byte{headerOnly(t, sparse)}, "a file may have"},
		{"depth", Limits{PathDepth: 3}, [][]byte{tarOf(t, file("a/b/c", "")), tarOf(t, file("a/b/c/d", ""))}, "too deep"},
		{"length", Limits{PathBytes: 10}, [][]byte{tarOf(t, file("12345/1234", "")), tarOf(t, file("12345/12345", ""))}, "too long"},
		{"length of targets", Limits{PathBytes: 10}, [][]byte{tarOf(t, symlink("a", "12345678901"))}, "too long"},
		{"what follows the last entry", Limits{Bytes: 1, Entries: 1}, [][]byte{gzipped(t, append(tarOf(t, dir("a/")), make([]byte, 1<<20)...))}, "unpacks to more than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := unpackTo(t, c.limits, c.raw...)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
		})
	}
	if l := (Limits{}).withDefaults(); l.Entries != 1_000_000 || l.Bytes != 8<<30 || l.Layers != 200 {
		t.Errorf("the defaults are %+v", l)
	}
}

// headerOnly returns a tar that ends where the body of its entry should begin.
func headerOnly(t *testing.T, e entry) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := tar.NewWriter(&b).WriteHeader(&e.Header); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestCompressionBombsAreRefused(t *testing.T) {
	// Zeros: as one file, and as a tail after the last entry.
	const slack = 1 << 20
	zeros := make([]byte, 3*slack)
	asFile := tarOf(t, file("zeros", string(zeros)))
	asTail := append(tarOf(t, file("a", "1")), zeros...)
	var z bytes.Buffer
	w, err := zstd.NewWriter(&z)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(asFile); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][]byte{
		"gzip": gzipped(t, asFile), "zstd": z.Bytes(), "tail": gzipped(t, asTail), "sparse": sparseTar(t, 1<<30),
	} {
		t.Run(name, func(t *testing.T) {
			r, err := os.OpenRoot(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			u := newUnpacker(r, Limits{}.withDefaults(), false)
			defer u.close()
			u.slack = slack
			err = unpackRaw(t.Context(), u, raw, true)
			if err == nil || !strings.Contains(err.Error(), "compression bomb") || !isExcess(err) {
				t.Fatalf("got %v", err)
			}
		})
	}
}

// sparseTar returns a tar of one file that consists of a hole, in the old GNU
// format.
func sparseTar(t *testing.T, size int64) []byte {
	t.Helper()
	raw := tarOf(t, entry{Header: tar.Header{Name: "hole", Typeflag: tar.TypeReg, Mode: 0o644, Format: tar.FormatGNU}})
	raw[156] = tar.TypeGNUSparse
	octal := func(field []byte, n int64) {
		for i := len(field) - 2; i >= 0; i-- {
			field[i] = '0' + byte(n&7)
			n >>= 3
		}
	}
	octal(raw[386:398], size) // one map entry, of no bytes at the end
	octal(raw[398:410], 0)
	octal(raw[483:495], size)
	fixChecksum(raw)
	return raw
}

func TestSmallSparseFileIsFilled(t *testing.T) {
	root, _, err := unpackTo(t, Limits{}, sparseTar(t, 5000))
	if err != nil {
		t.Fatal(err)
	}
	wantTree(t, root, "hole="+strings.Repeat("\x00", 5000))
}

func TestPermissionsOwnersAndTimes(t *testing.T) {
	old := syscall.Umask(0o077)
	t.Cleanup(func() { syscall.Umask(old) })
	when := time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC)
	header := func(name string, kind byte, mode int64) entry {
		return entry{Header: tar.Header{Name: name, Typeflag: kind, Mode: mode, Uid: 1234, Gid: 2345, ModTime: when}}
	}
	link := header("s", tar.TypeSymlink, 0o777)
	link.Linkname = "nowhere"
	future := header("future", tar.TypeReg, 0o644)
	future.ModTime, future.Format = time.Unix(1<<40, 0), tar.FormatPAX
	past := header("past", tar.TypeReg, 0o644)
	past.ModTime, past.Format = time.Unix(-1<<40, 0), tar.FormatPAX
	root, _, err := unpackTo(t, Limits{}, tarOf(t,
		header("dir/", tar.TypeDir, 0o3775), header("dir/setuid", tar.TypeReg, 0o6755), header("dir/sticky", tar.TypeReg, 0o1640),
		header("tmp/", tar.TypeDir, 0o1777), link, file("implicit/f", ""), future, past,
	))
	if err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]fs.FileMode{
		"dir": fs.ModeDir | fs.ModeSticky | 0o775, "dir/setuid": 0o755, "dir/sticky": 0o640,
		"tmp": fs.ModeDir | fs.ModeSticky | 0o777, "implicit": fs.ModeDir | 0o755, "s": fs.ModeSymlink | 0o777,
	} {
		fi, err := os.Lstat(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode() != mode {
			t.Errorf("%s is %v, want %v", name, fi.Mode(), mode)
		}
		st := fi.Sys().(*syscall.Stat_t)
		uid, gid := uint32(1234), uint32(2345)
		if name == "implicit" || os.Geteuid() != 0 {
			uid, gid = uint32(os.Geteuid()), uint32(os.Getegid())
		}
		if st.Uid != uid || st.Gid != gid {
			t.Errorf("%s belongs to %d:%d, want %d:%d", name, st.Uid, st.Gid, uid, gid)
		}
		if name != "s" && name != "implicit" && !fi.ModTime().Equal(when) {
			t.Errorf("%s is of %v, want %v", name, fi.ModTime(), when)
		}
	}
	for name, want := range map[string]int64{"future": 1<<32 - 1, "past": 0} {
		if fi, err := os.Stat(filepath.Join(root, name)); err != nil || fi.ModTime().Unix() != want {
			t.Errorf("%s: %v, %v", name, fi.ModTime(), err)
		}
	}
}

func TestUnpackWithoutRootKeepsAccess(t *testing.T) {
	root := t.TempDir()
	r, err := os.OpenRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	u := newUnpacker(r, Limits{}.withDefaults(), false)
	defer u.close()
	forbidden := func(name string, kind byte) entry {
		return entry{Header: tar.Header{Name: name, Typeflag: kind, Uid: 77, Gid: 77}}
	}
	if err := unpackRaw(t.Context(), u, tarOf(t, forbidden("d/", tar.TypeDir), forbidden("d/f", tar.TypeReg)), true); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]fs.FileMode{"d": fs.ModeDir | 0o700, "d/f": 0o400} {
		fi, err := os.Lstat(filepath.Join(root, name))
		if err != nil || fi.Mode() != mode || int(fi.Sys().(*syscall.Stat_t).Uid) != os.Geteuid() {
			t.Errorf("%s: %v %v", name, fi, err)
		}
	}
}

func TestDevicesAreCounted(t *testing.T) {
	_, u, err := unpackTo(t, Limits{}, tarOf(t, special("a", tar.TypeChar), special("b", tar.TypeFifo), hardLink("c", "a"), file("d", "")))
	if err != nil || u.skipped != 3 || u.entries != 4 {
		t.Errorf("skipped %d of %d, %v", u.skipped, u.entries, err)
	}
}

func TestDamagedLayersAreRefused(t *testing.T) {
	raw := tarOf(t, file("a", strings.Repeat("some text, and some more; ", 1000)))
	packed := gzipped(t, raw)
	digest, size, err := v1.SHA256(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	diffID, _, err := v1.SHA256(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	other := v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("0", 64)}
	flipped := bytes.Clone(packed)
	flipped[len(flipped)/2] ^= 1
	good := v1.Descriptor{Digest: digest, Size: size}
	for _, c := range []struct {
		name   string
		raw    []byte
		d      v1.Descriptor
		diffID v1.Hash
		want   string
	}{
		{"cut", packed[:len(packed)/2], good, diffID, "it ends after"},
		{"cut within the tar", raw[:700], v1.Descriptor{Size: 700}, diffID, "unexpected EOF"},
		{"longer", append(bytes.Clone(packed), 0), good, diffID, "longer than"},
		{"another digest", packed, v1.Descriptor{Digest: other, Size: size}, diffID, "wrong digest"},
		{"another digest within", packed, good, other, "its configuration says"},
		{"flipped", flipped, good, diffID, ""},
		{"empty", nil, good, diffID, "it ends after 0"},
		{"no tar", []byte(strings.Repeat("what is this? ", 100)), v1.Descriptor{Size: 1400}, diffID, "cannot be read"},
		{"half a header of gzip", packed[:3], v1.Descriptor{Size: 3}, diffID, "cannot be read"},
		{"a zstd that wants all memory", []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x90, 1, 0, 0}, v1.Descriptor{Size: 9}, diffID, "window"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := os.OpenRoot(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			u := newUnpacker(r, Limits{}.withDefaults(), false)
			defer u.close()
			err = u.unpack(t.Context(), bytes.NewReader(c.raw), c.d, c.diffID, true)
			if err == nil || !strings.Contains(err.Error(), c.want) || !isFlaw(err) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestUnpackEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(os.ErrDeadlineExceeded)
	r, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	u := newUnpacker(r, Limits{}.withDefaults(), false)
	defer u.close()
	if err := unpackRaw(ctx, u, tarOf(t, file("a", "1")), true); err == nil || !strings.Contains(err.Error(), os.ErrDeadlineExceeded.Error()) {
		t.Errorf("got %v", err)
	}
}

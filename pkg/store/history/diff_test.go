package history

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func (f *fixture) diff(t testing.TB, hash string) string {
	t.Helper()
	text, err := f.store.Diff(t.Context(), user, project, hash)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestGitCanApplyADiff creates versions of many kinds, and stock git recreates each
// from the previous one and its diff.
func TestGitCanApplyADiff(t *testing.T) {
	f := newFixture(t)
	long := func(n int) string {
		var b strings.Builder
		for i := range 200 {
			fmt.Fprintf(&b, "line %d\n", i)
			if i == n {
				b.WriteString("one more\n")
			}
		}
		return b.String()
	}
	steps := []map[string]string{
		{"index.html": "<p>\n", "a/b.js": long(1), "no-newline": "end", "empty": "", "run.sh": "x\n"},
		{"index.html": "<p>\n<b>\n", "a/b.js": long(150)},
		{"moved.js": long(150), "a/b.js": ""},
		{"no-newline": "end\n", "odd name ü": "x\n"},
		{"index.html": "", "no-newline": "other"},
	}
	before := ""
	for i, files := range steps {
		f.write(t, files)
		if i == 2 {
			if err := os.RemoveAll(filepath.Join(f.dir, "a")); err != nil {
				t.Fatal(err)
			}
		}
		if i == 3 {
			if err := os.Chmod(filepath.Join(f.dir, "run.sh"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		hash, _ := f.commit(t, fmt.Sprint("step ", i))
		text := f.diff(t, Short(hash))
		if i == 2 && !strings.Contains(text, "rename from a/b.js\nrename to moved.js\n") {
			t.Errorf("a rename:\n%s", text)
		}
		work := t.TempDir()
		if before != "" {
			f.command(t, "--work-tree", work, "checkout", "-f", before, "--", ".")
		}
		cmd := exec.Command("git", "apply", "--whitespace=nowarn", "-")
		cmd.Dir, cmd.Stdin = work, strings.NewReader(text)
		cmd.Env = append(os.Environ(), "GIT_DIR=/nonexistent")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("step %d: %v %s\n%s", i, err, out, text)
		}
		if out, err := exec.Command("diff", "-r", work, f.dir).CombinedOutput(); err != nil {
			t.Errorf("step %d: %s", i, out)
		}
		before = hash
	}
}

func TestDiffOfBinaryAndLargeFiles(t *testing.T) {
	f := newFixture(t)
	f.write(t, map[string]string{"a.png": "\x00\x01", "big.js": strings.Repeat("x\n", maxDiffFile), "in\nject": "x\n", "latin": "\xe4\n"})
	first, _ := f.commit(t, "one")
	text := f.diff(t, first)
	for _, want := range []string{
		"Binary files /dev/null and b/a.png differ\n", "Binary files /dev/null and b/big.js differ\n", `b/"in\nject"`, "Binary files /dev/null and b/latin differ\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	// The slowest comparison: two texts without a common line.
	var a, b bytes.Buffer
	for i := range 100_000 {
		fmt.Fprintln(&a, "a", i)
		fmt.Fprintln(&b, "b", i)
	}
	f.write(t, map[string]string{"worst.js": a.String()})
	f.commit(t, "two")
	f.write(t, map[string]string{"worst.js": b.String()})
	hash, _ := f.commit(t, "three")
	began := time.Now()
	if text := f.diff(t, hash); !strings.Contains(text, "+b 7\n") || time.Since(began) > diffLimit {
		t.Errorf("%d bytes after %v", len(text), time.Since(began))
	}
	for i := range maxDiffFiles + 5 {
		f.write(t, map[string]string{fmt.Sprintf("many/%d", i): "x\n"})
	}
	hash, _ = f.commit(t, "many")
	if text := f.diff(t, hash); !strings.HasSuffix(text, "(5 more files changed and are not shown)\n") {
		t.Errorf("%.200s … %s", text, text[len(text)-100:])
	}
}

func TestVersionsAreFoundByHashPrefix(t *testing.T) {
	f := newFixture(t)
	if _, err := f.store.Diff(t.Context(), user, project, "1234567"); dreamcore.CodeOf(err) != dreamcore.CodeNotFound || err.Error() != NotInitialized {
		t.Errorf("no history: %v", err)
	}
	f.write(t, map[string]string{"index.html": "one", "a/x.js": "js", "a.png": "png", "SPEC.md": "spec"})
	first, _ := f.commit(t, "one")
	f.write(t, map[string]string{"index.html": "two"})
	second, _ := f.commit(t, "two")
	for _, bad := range []string{"", "123456", strings.Repeat("a", 41), "HEAD", "main", "zzzzzzz", "1234567 ", "../../../x", "1234567\n"} {
		if _, err := f.store.Diff(t.Context(), user, project, bad); dreamcore.CodeOf(err) != dreamcore.CodeInvalid || !strings.HasPrefix(err.Error(), "Invalid commit hash") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	tree := strings.TrimSpace(f.command(t, "rev-parse", first+"^{tree}"))
	for _, absent := range []string{tree, "0000000", strings.Repeat("f", 40)} {
		if _, err := f.store.Diff(t.Context(), user, project, absent); dreamcore.CodeOf(err) != dreamcore.CodeNotFound || !strings.HasPrefix(err.Error(), NoSuchCommit) {
			t.Errorf("%q: %v", absent, err)
		}
	}
	for n := 7; n <= 40; n++ {
		for hash, text := range map[string]string{first: "one", second: "two"} {
			files, full, err := f.store.Files(t.Context(), user, project, strings.ToUpper(hash[:n]), func(p string) bool { return p == "index.html" })
			if err != nil || full != hash || len(files) != 1 {
				t.Fatalf("%s: %v %s %v", hash[:n], files, full, err)
			}
			var b bytes.Buffer
			if err := files[0].Write(&b); err != nil || b.String() != text || files[0].Size != 3 {
				t.Errorf("%q %v", b.String(), err)
			}
		}
	}
}

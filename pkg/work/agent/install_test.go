package agent

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

const elf = "\x7fELF and the rest of a program"

// put writes a file and returns its path.
func put(t *testing.T, name, content string, mode os.FileMode) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil { // despite the umask
		t.Fatal(err)
	}
	return name
}

func resolved(t *testing.T, name string) string {
	t.Helper()
	real, err := filepath.EvalSymlinks(name)
	if err != nil {
		t.Fatal(err)
	}
	return real
}

func TestLocateByPath(t *testing.T) {
	dir := t.TempDir()
	native := put(t, filepath.Join(dir, "native"), elf, 0o755)
	link := filepath.Join(dir, "link")
	if err := os.Symlink("native", link); err != nil {
		t.Fatal(err)
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, path, refused string }{
		{"a program", native, ""},
		{"a link to one", link, ""},
		{"a script", put(t, filepath.Join(dir, "script"), "#!/usr/bin/env node\n", 0o755), "not a native program"},
		{"an empty file", put(t, filepath.Join(dir, "empty"), "", 0o755), "not a native program"},
		{"three bytes", put(t, filepath.Join(dir, "short"), "\x7fEL", 0o755), "not a native program"},
		{"a directory", dir, "not a native program"},
		{"a FIFO, which must not block", pipe, "not a native program"},
		{"nothing there", filepath.Join(dir, "none"), "cannot be read"},
		{"for root alone", put(t, filepath.Join(dir, "private"), elf, 0o700), "not by the user inside sandboxes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, err := Locate(tt.path)
			if tt.refused == "" {
				fi, serr := os.Stat(native)
				if err != nil || serr != nil || b.Path != resolved(t, native) || b.Size != int64(len(elf)) || !b.Modified.Equal(fi.ModTime()) {
					t.Errorf("%+v, %v", b, err)
				}
				return
			}
			if dreamcore.CodeOf(err) != dreamcore.CodeInvalid || !strings.Contains(err.Error(), tt.refused) || dreamcore.HintOf(err) == "" {
				t.Errorf("%v, hint %q", err, dreamcore.HintOf(err))
			}
		})
	}
}

func TestLocateInTheSearchPath(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		name, content string
		mode          os.FileMode
		found         bool
	}{
		{"a program", elf, 0o755, true},
		{"a script is as good as none", "#!/usr/bin/env node\n", 0o755, false},
		{"one for root alone is as good as none", elf, 0o700, false},
		{"one that may not be run", elf, 0o644, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("PATH", dir)
			put(t, filepath.Join(dir, "claude"), tt.content, tt.mode)
			b, err := Locate("")
			if tt.found != (err == nil) || !tt.found && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%+v, %v", b, err)
			}
		})
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := Locate(""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty search path: %v", err)
	}
}

func proven(t *testing.T, file string) Binary {
	t.Helper()
	b, err := Locate(file)
	if err != nil {
		t.Fatal(err)
	}
	b.Version, b.Proven = "1.2.3", time.Now().UTC()
	return b
}

func TestRecordedReturnsTheRecord(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "agent")
	b := proven(t, put(t, filepath.Join(t.TempDir(), "claude"), elf, 0o755))
	for range 2 { // the second replaces the first
		if err := Record(dir, b); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Recorded(dir)
	if err != nil || got.Path != b.Path || got.Version != "1.2.3" || !got.Proven.Equal(b.Proven) {
		t.Errorf("%+v, %v", got, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left next to the record: %v, %v", entries, err)
	}
}

func TestRecordedRefusesAChangedProgram(t *testing.T) {
	for _, tt := range []struct {
		name  string
		spoil func(t *testing.T, dir, file string)
		says  string
	}{
		{"no record", func(t *testing.T, dir, _ string) {
			if err := os.Remove(filepath.Join(dir, recordName)); err != nil {
				t.Fatal(err)
			}
		}, "not installed"},
		{"a damaged record", func(t *testing.T, dir, _ string) { put(t, filepath.Join(dir, recordName), `{"path":`, 0o600) }, "damaged"},
		{"an empty record", func(t *testing.T, dir, _ string) { put(t, filepath.Join(dir, recordName), ``, 0o600) }, "damaged"},
		{"a record without fields", func(t *testing.T, dir, _ string) { put(t, filepath.Join(dir, recordName), `{}`, 0o600) }, "gone"},
		{"the program is gone", func(t *testing.T, _, file string) {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
		}, "gone"},
		{"another size", func(t *testing.T, _, file string) { put(t, file, elf+"!", 0o755) }, "changed"},
		{"the same size, another time", func(t *testing.T, _, file string) {
			if err := os.Chtimes(file, time.Time{}, time.Now().Add(-time.Hour)); err != nil {
				t.Fatal(err)
			}
		}, "changed"},
		{"never proven", func(t *testing.T, dir, file string) {
			b := proven(t, file)
			b.Proven = time.Time{}
			if err := Record(dir, b); err != nil {
				t.Fatal(err)
			}
		}, "not passed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, file := t.TempDir(), put(t, filepath.Join(t.TempDir(), "claude"), elf, 0o755)
			if err := Record(dir, proven(t, file)); err != nil {
				t.Fatal(err)
			}
			tt.spoil(t, dir, file)
			_, err := Recorded(dir)
			if dreamcore.CodeOf(err) != dreamcore.CodeSetup || !strings.Contains(err.Error(), tt.says) || dreamcore.ReasonOf(err) != ReasonNotReady {
				t.Errorf("%v, hint %q", err, dreamcore.HintOf(err))
			}
		})
	}
}

func TestRecordFails(t *testing.T) {
	file := put(t, filepath.Join(t.TempDir(), "file"), "", 0o600)
	if err := Record(filepath.Join(file, "agent"), Binary{}); err == nil || !strings.Contains(err.Error(), "record the agent") {
		t.Errorf("%v", err)
	}
}

// fakeNPM makes a shell script npm.
func fakeNPM(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	put(t, filepath.Join(dir, "npm"), "#!/bin/sh\n"+script, 0o755)
	t.Setenv("PATH", dir+":/usr/bin:/bin")
}

// installs plays npm for Install: it writes $content to the file of the package's
// program, and records its arguments.
const installs = `
echo "$@" >"$(dirname "$0")/args"
while [ "$1" != --prefix ]; do shift; done
dir=$2; shift 2
name=${1%@*}
mkdir -p "$dir/node_modules/$name"
printf "$content" >"$dir/node_modules/$name/claude"
chmod 755 "$dir/node_modules/$name/claude"
`

func TestInstallUsesThePinnedPlatformPackage(t *testing.T) {
	fakeNPM(t, `content='\177ELF program'`+installs)
	dir := filepath.Join(t.TempDir(), "agent")
	b, err := Install(t.Context(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	pkg, err := Package()
	if err != nil || !strings.HasPrefix(pkg, "@anthropic-ai/claude-code-linux-") || runtime.GOARCH == "amd64" && !strings.Contains(pkg, "-x64") {
		t.Errorf("package %s, %v", pkg, err)
	}
	if want := resolved(t, filepath.Join(dir, "node_modules", pkg, "claude")); b.Path != want || b.Size != int64(len("\x7fELF program")) || !b.Proven.IsZero() {
		t.Errorf("%+v, want the program %s, not proven yet", b, want)
	}
	raw, err := os.ReadFile(filepath.Join(strings.Split(os.Getenv("PATH"), ":")[0], "args"))
	args := string(raw)
	if err != nil || !strings.Contains(args, pkg+"@"+Version) || !strings.Contains(args, "--ignore-scripts") {
		t.Errorf("npm was called with %q, %v", args, err)
	}
}

// npm waits until the bytes of what it has unpacked were shown.
func TestInstallSaysHowMuchIsInstalled(t *testing.T) {
	seen := filepath.Join(t.TempDir(), "seen")
	fakeNPM(t, `content='\177ELF program'`+installs+`
until [ -e '`+seen+`' ]; do sleep 0.05; done
`)
	var most int64
	_, err := Install(t.Context(), filepath.Join(t.TempDir(), "agent"), func(bytes int64) {
		if most = max(most, bytes); most > 0 {
			put(t, seen, "", 0o600)
		}
	})
	if want := int64(len("\x7fELF program")); err != nil || most != want {
		t.Errorf("%d bytes, not %d; %v", most, want, err)
	}
}

func TestInstallFails(t *testing.T) {
	for _, tt := range []struct{ name, npm, says, hint string }{
		{"npm fails", "echo 'npm error code E404'; exit 1", "E404", "npm ping"},
		{"npm installs a script", "content='#!/bin/sh'" + installs, "not installed a program", "run setup again"},
		{"npm installs nothing", "exit 0", "not installed a program", "run setup again"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fakeNPM(t, tt.npm)
			_, err := Install(t.Context(), filepath.Join(t.TempDir(), "agent"), nil)
			if dreamcore.CodeOf(err) != dreamcore.CodeSetup || !strings.Contains(err.Error(), tt.says) || !strings.Contains(dreamcore.HintOf(err), tt.hint) || dreamcore.ReasonOf(err) != ReasonProgram {
				t.Errorf("%v, hint %q", err, dreamcore.HintOf(err))
			}
		})
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := Install(t.Context(), t.TempDir(), nil); dreamcore.CodeOf(err) != dreamcore.CodeSetup || !strings.Contains(dreamcore.HintOf(err), "apt-get install npm") {
		t.Errorf("without npm: %v, hint %q", err, dreamcore.HintOf(err))
	}
}

func TestInstallEndsWithItsContext(t *testing.T) {
	fakeNPM(t, `touch "$(dirname "$0")/began"; exec sleep 600`)
	began := filepath.Join(strings.Split(os.Getenv("PATH"), ":")[0], "began")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := Install(ctx, t.TempDir(), nil)
		done <- err
	}()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(began); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("npm was not started")
		}
	}
	cancel()
	if err := <-done; err == nil {
		t.Error("a cancelled installation succeeded")
	}
}

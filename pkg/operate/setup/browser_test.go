package setup

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

// aptScript stands for apt-get: it reports progress, and installs a file.
const aptScript = `#!/bin/sh
echo "$@" >>"$0.log"
case "$*" in *install*)
  [ -e "$0.fails" ] && { echo "E: Unable to locate package chromium-headless-shell" >&2; exit 100; }
  echo "dlstatus:1:12.5:Retrieving file 1 of 2" >&3
  echo "pmstatus:chromium-headless-shell:80.0:Unpacking" >&3
  echo "nonsense" >&3
  echo >"$0.browser";;
esac
`

// browserRig runs the step of the browser alone.
func browserRig(t *testing.T, b *Browser) (apt string, run func() ([]string, error), updates *[]string) {
	t.Helper()
	if os.Geteuid() != 0 {
		sandboxtest.Need(t, false, "root")
	}
	dir := t.TempDir()
	apt = filepath.Join(dir, "apt-get")
	if err := os.WriteFile(apt, []byte(aptScript), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	updates = new([]string)
	b.Find = func() string {
		if _, err := os.Stat(apt + ".browser"); err == nil {
			return "/usr/bin/chromium"
		}
		return ""
	}
	b.Update = func(doing string) { *updates = append(*updates, doing) }
	return apt, func() (steps []string, err error) {
		r := &runner{Options: Options{Engine: "gVisor", Browser: b, Begin: func(string) {}, Done: func(s Step) { steps = append(steps, s.Name+": "+string(s.Status)) }}}
		return steps, r.browser(t.Context())
	}, updates
}

func TestABrowserIsInstalledOnlyOnRequest(t *testing.T) {
	b := &Browser{Prove: func(context.Context) (string, error) { return "Chrome/1", nil }}
	apt, run, updates := browserRig(t, b)
	steps, err := run()
	if err != nil || !slices.Equal(steps, []string{"browser: missing"}) {
		t.Errorf("%q, %v", steps, err)
	}
	if _, err := os.Stat(apt + ".log"); err == nil {
		t.Error("apt-get was called")
	}
	b.Install = true
	r := []string{"browser: installed", "browser in a sandbox: checked"}
	if steps, err = run(); err != nil || !slices.Equal(steps, r) {
		t.Errorf("%q, %v", steps, err)
	}
	if want := []string{"Downloading the browser: 12 %", "Installing the browser: 80 %"}; !slices.Equal(*updates, want) {
		t.Errorf("progress %q", *updates)
	}
	r[0] = "browser: exists"
	if steps, err = run(); err != nil || !slices.Equal(steps, r) {
		t.Errorf("again: %q, %v", steps, err)
	}
	if raw, err := os.ReadFile(apt + ".log"); err != nil || strings.Count(string(raw), "\n") != 2 {
		t.Errorf("apt-get was called with %q, %v", raw, err)
	}
}

func TestABrowserThatCannotBeInstalled(t *testing.T) {
	broken := errors.New("it draws nothing")
	b := &Browser{Install: true, Prove: func(context.Context) (string, error) { return "", broken }}
	apt, run, _ := browserRig(t, b)
	if err := os.WriteFile(apt+".fails", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if steps, err := run(); dreamcore.ReasonOf(err) != ReasonBrowser || !strings.Contains(err.Error(), "Unable to locate") || len(steps) > 0 {
		t.Errorf("%q, %v", steps, err)
	} else if hint := dreamcore.HintOf(err); !strings.Contains(hint, "/usr/bin/chromium,") || strings.Contains(hint, "apt-get install") {
		t.Errorf("the hint is %q", hint)
	}
	b.Elsewhere = "image debian:12"
	if _, err := run(); dreamcore.CodeOf(err) != dreamcore.CodeInvalid || !strings.Contains(err.Error(), "image debian:12") {
		t.Errorf("into an image: %v", err)
	}
	b.Elsewhere = ""
	if err := os.Remove(apt + ".fails"); err != nil {
		t.Fatal(err)
	}
	if steps, err := run(); !errors.Is(err, broken) || len(steps) > 0 {
		t.Errorf("one that does not work: %q, %v", steps, err)
	}
	t.Setenv("PATH", t.TempDir())
	if err := os.Remove(apt + ".browser"); err != nil {
		t.Fatal(err)
	}
	if _, err := run(); dreamcore.ReasonOf(err) != ReasonBrowser || !strings.Contains(err.Error(), "no apt-get") {
		t.Errorf("without apt-get: %v", err)
	}
}

// TestTheInstallationOfABrowserCanBeInterrupted: what apt-get starts is not ended
// with it, and holds its pipes.
func TestTheInstallationOfABrowserCanBeInterrupted(t *testing.T) {
	b := &Browser{Install: true, Prove: func(context.Context) (string, error) { return "Chrome/1", nil }}
	apt, _, _ := browserRig(t, b)
	script := "#!/bin/sh\nsleep 20 >/dev/null 2>&1 &\necho $! >\"$0.child\"\nwait\n"
	if err := os.WriteFile(apt, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		defer cancel()
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if raw, err := os.ReadFile(apt + ".child"); err == nil && strings.HasSuffix(string(raw), "\n") {
				return
			}
		}
	}()
	r := &runner{Options: Options{Engine: "gVisor", Browser: b, Begin: func(string) {}, Done: func(Step) {}}}
	began := time.Now()
	if err := r.browser(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %s", took)
	}
	raw, err := os.ReadFile(apt + ".child")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
}

package acceptance_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/gvisor"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/rootfs"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/runc"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	uid, gid = sandboxtest.UID, sandboxtest.GID
	inside   = "/data/project"
)

var settings = acceptance.Settings{UID: uid, GID: gid, Limit: 20 * time.Second}

// standin builds the program that stands for the driver.
func standin(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "standin")
	cmd := exec.Command("go", "build", "-o", path, "./testdata/standin")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// provide returns a provider of the engine, which is closed at the end of the test.
func provide(t testing.TB, engine string) (sandbox.Provider, sandbox.Root) {
	t.Helper()
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to start sandboxes")
	root, err := rootfs.Host(t.TempDir(), uid, gid)
	if err != nil {
		t.Fatal(err)
	}
	var p sandbox.Provider
	if engine == runc.Name {
		p, err = runc.New(t.Context(), runc.Config{Exe: sandboxtest.Binary(t), Dir: t.TempDir(), UID: uid, GID: gid})
	} else {
		p, err = gvisor.New(t.Context(), gvisor.Config{Exe: sandboxtest.Binary(t), Dir: t.TempDir()})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return p, root
}

// create creates a sandbox with a project and the program file as its driver.
func create(t testing.TB, p sandbox.Provider, root sandbox.Root, file string, limits sandbox.Limits) sandbox.Sandbox {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "index.html"), game(t), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	mounts := []sandbox.Mount{{Source: dir, Target: inside}}
	if file != "" {
		mounts = append(mounts, sandbox.Mount{Source: file, Target: rootfs.CheckPath})
	}
	sb, err := p.Create(t.Context(), sandbox.Spec{Root: root, Mounts: mounts, Limits: limits})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sb.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return sb
}

// game returns a page with a game that works.
func game(t testing.TB) []byte {
	t.Helper()
	raw, err := os.ReadFile("pages/good.html")
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// sh runs a shell script as a user.
func sh(t testing.TB, sb sandbox.Sandbox, user uint32, text string) string {
	t.Helper()
	var out strings.Builder
	p, err := sb.Start(t.Context(), sandbox.Command{Args: []string{"/bin/sh", "-c", text}, Env: []string{"PATH=/usr/bin:/bin"}, UID: user, GID: gid, Stdout: &out, Stderr: &out})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// browsing is a shell script that prints how many processes of the browser there are.
const browsing = `n=0; for s in /proc/[0-9]*/status; do grep -q '^Uid:.61000' $s 2>/dev/null && n=$((n+1)); done; echo $n`

func count(t testing.TB, sb sandbox.Sandbox, want string) {
	t.Helper()
	if got := strings.TrimSpace(sh(t, sb, uid, browsing)); got != want {
		t.Errorf("%s processes of the browser, want %s", got, want)
	}
}

func engines(t *testing.T, test func(t *testing.T, p sandbox.Provider, root sandbox.Root, file string)) {
	file := standin(t)
	for _, engine := range []string{gvisor.Name, runc.Name} {
		t.Run(engine, func(t *testing.T) {
			p, root := provide(t, engine)
			test(t, p, root, file)
		})
	}
}

func TestABrowserIsStartedAheadAndOutlivesTheAgent(t *testing.T) {
	engines(t, func(t *testing.T, p sandbox.Provider, root sandbox.Root, file string) {
		sb := create(t, p, root, file, sandbox.Limits{})
		b := acceptance.Start(t.Context(), sb, settings)
		for deadline := time.Now().Add(20 * time.Second); strings.TrimSpace(sh(t, sb, uid, browsing)) != "2"; {
			if time.Now().After(deadline) {
				t.Fatal("the browser was not started ahead")
			}
			time.Sleep(50 * time.Millisecond)
		}
		if out := sh(t, sb, uid, `for s in /proc/[0-9]*/status; do grep -q '^Uid:.61000' $s && p=${s%/status} && kill -9 ${p#/proc/} 2>&1; done; true`); !strings.Contains(out, "ermitted") {
			t.Errorf("the agent may signal the browser: %q", out)
		}
		if err := sb.EndUser(t.Context(), uid); err != nil {
			t.Fatal(err)
		}
		count(t, sb, "2")
		for range 2 { // the same browser serves many checks
			r, err := b.Check(t.Context(), inside)
			if err != nil || r.Verdict != verdict.Passed || len(r.Checks) != 1 || r.Browser != "Standin/1" {
				t.Errorf("%+v, %v", r, err)
			}
		}
		if n := strings.TrimSpace(sh(t, sb, uid, `pgrep -fc 'serve /data' || true`)); n != "0" && n != "1" { // 1: the shell itself
			t.Errorf("%s file servers are left", n)
		}
		for range 2 {
			if err := b.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}
		count(t, sb, "0")
		if _, err := b.Check(t.Context(), inside); dreamcore.ReasonOf(err) != acceptance.ReasonStart {
			t.Errorf("a check after Close: %v", err)
		}
		clean := sandbox.Residue{Owners: []sandbox.Owner{{UID: uid, GID: gid}, rootfs.Browser(uid, gid)}, Empty: []string{"/tmp"}}
		if err := sb.Clean(t.Context(), clean); err != nil {
			t.Error(err)
		}
		if left := sh(t, sb, uid, "ls -A /tmp"); left != "" {
			t.Errorf("left in /tmp: %q", left)
		}
	})
}

func TestABrowserThatBreaksTheRulesGivesNoVerdict(t *testing.T) {
	engines(t, func(t *testing.T, p sandbox.Provider, root sandbox.Root, file string) {
		sb := create(t, p, root, file, sandbox.Limits{})
		for rule, want := range map[string]dreamcore.Reason{
			"die": acceptance.ReasonDied, "hang": acceptance.ReasonLimit, "long": acceptance.ReasonOutput, "garbage": acceptance.ReasonOutput,
			"empty": acceptance.ReasonOutput, "refuse": acceptance.ReasonRefused,
		} {
			t.Run(rule, func(t *testing.T) {
				s := settings
				s.Limit, s.Hosts, s.Delay = time.Second, []string{rule}, time.Hour
				b := acceptance.Start(t.Context(), sb, s)
				began := time.Now()
				r, err := b.Check(t.Context(), inside)
				if r.Verdict != verdict.Unknown || len(r.Checks) > 0 || dreamcore.ReasonOf(err) != want {
					t.Errorf("%+v, %v (%s), want %s", r, err, dreamcore.ReasonOf(err), want)
				}
				if took := time.Since(began); took > 10*time.Second {
					t.Errorf("it took %s", took)
				}
				if err != nil && strings.ContainsRune(err.Error(), '\x1b') {
					t.Errorf("a control character is in %q", err)
				}
				if rule != "refuse" {
					count(t, sb, "0") // it was ended
				}
				if err := b.Close(t.Context()); err != nil {
					t.Error(err)
				}
				count(t, sb, "0")
			})
		}
		t.Run("flood", func(t *testing.T) { // the first report counts, the next one kills it
			s := settings
			s.Hosts, s.Delay = []string{"flood"}, time.Hour
			b := acceptance.Start(t.Context(), sb, s)
			for range 2 {
				r, err := b.Check(t.Context(), inside)
				passed := err == nil && r.Verdict == verdict.Passed && len(r.Checks) == 1
				if !passed && (r.Verdict != verdict.Unknown || dreamcore.ReasonOf(err) != acceptance.ReasonOutput) {
					t.Errorf("%+v, %v", r, err)
				}
				// What it has started may be left, until the next check or Close.
				for deadline := time.Now().Add(20 * time.Second); strings.TrimSpace(sh(t, sb, uid, browsing)) == "2"; time.Sleep(50 * time.Millisecond) {
					if time.Now().After(deadline) {
						t.Fatal("it goes on although it writes more than it was asked for")
					}
				}
			}
			if err := b.Close(t.Context()); err != nil {
				t.Error(err)
			}
			count(t, sb, "0")
		})
	})
}

func TestABrowserThatIsNotThereGivesNoVerdict(t *testing.T) {
	p, root := provide(t, gvisor.Name)
	sb := create(t, p, root, "", sandbox.Limits{})
	b := acceptance.Start(t.Context(), sb, settings)
	r, err := b.Check(t.Context(), inside)
	if r.Verdict != verdict.Unknown || dreamcore.ReasonOf(err) != acceptance.ReasonServe {
		t.Errorf("%+v, %v", r, err)
	}
	if err := b.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestACheckOfALostSandboxGivesNoVerdict(t *testing.T) {
	p, root := provide(t, gvisor.Name)
	sb := create(t, p, root, standin(t), sandbox.Limits{})
	s := settings
	s.Hosts = []string{"hang"}
	b := acceptance.Start(t.Context(), sb, s)
	time.AfterFunc(time.Second, func() { _ = sb.Close(context.Background()) })
	r, err := b.Check(t.Context(), inside)
	if r.Verdict != verdict.Unknown || dreamcore.ReasonOf(err) != acceptance.ReasonSandbox || !errors.Is(err, sandbox.ErrLost) {
		t.Errorf("%+v, %v", r, err)
	}
	if err := b.Close(t.Context()); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func TestACheckEndsWithItsContext(t *testing.T) {
	p, root := provide(t, gvisor.Name)
	sb := create(t, p, root, standin(t), sandbox.Limits{})
	s := settings
	s.Hosts = []string{"hang"}
	b := acceptance.Start(t.Context(), sb, s)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	type result struct {
		report verdict.Report
		err    error
	}
	got := make(chan result, 1)
	go func() {
		r, err := b.Check(ctx, inside)
		got <- result{r, err}
	}()
	// A check that ends before it reaches the browser leaves it to the next one.
	sh(t, sb, uid, "until test -e /tmp/browser-was-asked; do sleep 0.02; done")
	began := time.Now()
	cancel()
	if r := <-got; r.report.Verdict != verdict.Unknown || dreamcore.ReasonOf(r.err) != acceptance.ReasonLimit || time.Since(began) > 5*time.Second {
		t.Errorf("%+v, %s after the end of its context", r, time.Since(began))
	}
	count(t, sb, "0")
	if err := b.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

package disk

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// With these variables, the test program is the other process of a test: it uses a
// disk in a directory until it is killed, or until its input ends.
const (
	processDir    = "DREAMCORE_TEST_DISK_IN"
	processAction = "DREAMCORE_TEST_DISK_DOES"
)

func runProcess() {
	dir := os.Getenv(processDir)
	if dir == "" {
		return
	}
	what := map[string]func(string) error{"churn": churn, "use": use, "move": move, "grow": grown}[os.Getenv(processAction)]
	if err := what(dir); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// churn mounts and unmounts in a loop, and counts the rounds in a file.
func churn(dir string) error {
	s, err := New(options(dir, idleFor(time.Millisecond), withPlain(dir)))
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for n := 0; ; n++ {
		path, release, err := s.Acquire(context.Background(), key)
		if err != nil {
			return err
		}
		temp := filepath.Join(path, "new")
		if err := errors.Join(os.WriteFile(temp, []byte(strings.Repeat("x", n)), 0o644), os.Rename(temp, filepath.Join(path, "count"))); err != nil {
			return err
		}
		release()
		time.Sleep(time.Duration(n%4) * time.Millisecond)
	}
}

// use uses the disk until its input ends.
func use(dir string) error {
	s, err := New(options(dir))
	if err != nil {
		return err
	}
	path, release, err := s.Acquire(context.Background(), key)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	err = errors.Join(err, os.WriteFile(filepath.Join(path, "last"), []byte("words"), 0o644))
	release()
	return errors.Join(err, s.Close())
}

// move moves plain directories into a disk.
func move(dir string) error {
	s, err := New(options(dir, withPlain(dir)))
	if err != nil {
		return err
	}
	fmt.Println("ready")
	_, release, err := s.Acquire(context.Background(), key)
	if err != nil {
		return err
	}
	release()
	return s.Close()
}

const grownBytes = 512 << 20

// grown grows a disk and uses it.
func grown(dir string) error {
	s, err := New(options(dir, sized(grownBytes)))
	if err != nil {
		return err
	}
	fmt.Println("ready")
	_, release, err := s.Acquire(context.Background(), key)
	if err != nil {
		return err
	}
	release()
	return s.Close()
}

// process is another process that uses a disk.
type process struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
}

func startProcess(t testing.TB, dir, what string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(os.Args[0])}
	p.cmd.Env = append(os.Environ(), processDir+"="+dir, processAction+"="+what)
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdout = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	if line, err := p.stdout.ReadString('\n'); line != "ready\n" {
		t.Fatalf("the other process: %q, %p", line, err)
	}
	return p
}

func (p *process) kill() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
}

// end lets a process that uses a disk exit by itself.
func (p *process) end(t *testing.T) {
	t.Helper()
	p.stdin.Close()
	printed, _ := io.ReadAll(p.stdout)
	if err := p.cmd.Wait(); err != nil || len(printed) > 0 {
		t.Fatalf("the other process: %p, %s", err, printed)
	}
}

func TestTheNextProcessWorksAfterAKill(t *testing.T) {
	s := newStore(t)
	dir := filepath.Dir(s.opts.Images)
	most := 0
	for range 12 {
		p := startProcess(t, dir, "churn")
		time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
		p.kill()
		next := openStore(t, dir)
		if err := next.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if mounts, _ := below(t, dir); len(mounts) > 0 {
			t.Fatalf("mounts after Sweep: %q", mounts)
		}
		path, release := acquire(t, next, key)
		data, err := os.ReadFile(filepath.Join(path, "count"))
		if err != nil && !errors.Is(err, os.ErrNotExist) || strings.Trim(string(data), "x") != "" {
			t.Fatalf("%q, %p", data, err)
		}
		most = max(most, len(data))
		if out, err := checkFS(next, release); err != nil {
			t.Fatalf("%p: %s", err, out)
		}
		wantNothingLeft(t, dir)
		wantFiles(t, next.opts.Images, key+imageExtension, key+lockExtension)
	}
	if most < 3 {
		t.Fatalf("no process completed enough rounds: %d", most)
	}
}

func TestAKilledGrowthIsCompleted(t *testing.T) {
	for range 8 {
		s := newStore(t)
		dir := filepath.Dir(s.opts.Images)
		path, release := acquire(t, s, key)
		write(t, filepath.Join(path, "kept"), strings.Repeat("text", 1<<18))
		release()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		p := startProcess(t, dir, "grow")
		time.Sleep(time.Duration(rand.IntN(100)) * time.Millisecond)
		p.kill()
		next := openStore(t, dir, sized(grownBytes))
		if err := next.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		path, release = acquire(t, next, key)
		wantText(t, filepath.Join(path, "kept"), strings.Repeat("text", 1<<18))
		var st unix.Statfs_t
		if err := unix.Statfs(path, &st); err != nil || int64(st.Bavail)*st.Bsize < grownBytes*8/10 {
			t.Fatalf("%d blocks free, %p", st.Bavail, err)
		}
		if out, err := checkFS(next, release); err != nil {
			t.Fatalf("%p: %s", err, out)
		}
	}
}

func TestAMountOfADeadProcessIsReused(t *testing.T) {
	s := newStore(t)
	p := startProcess(t, filepath.Dir(s.opts.Images), "use")
	p.kill()
	if mounts, devices := below(t, filepath.Dir(s.opts.Images)); len(mounts) != 1 || len(devices) != 1 {
		t.Fatal(mounts, devices)
	}
	_, release := acquire(t, s, key)
	if mounts, devices := below(t, filepath.Dir(s.opts.Images)); len(mounts) != 1 || len(devices) != 1 {
		t.Fatal(mounts, devices)
	}
	release()
}

func TestTwoProcessesShareADisk(t *testing.T) {
	s := newStore(t)
	dir := filepath.Dir(s.opts.Images)
	path, release := acquire(t, s, key)
	p := startProcess(t, dir, "use")
	write(t, filepath.Join(path, "ours"), "text")
	release()
	if err := errors.Join(s.Sweep(t.Context()), s.Close()); err != nil {
		t.Fatal(err)
	}
	wantText(t, filepath.Join(path, "ours"), "text") // the other process has it mounted
	if _, devices := below(t, dir); len(devices) != 1 {
		t.Fatal(devices)
	}
	p.end(t)
	wantNothingLeft(t, dir)
	again := openStore(t, dir)
	path, release = acquire(t, again, key)
	defer release()
	wantText(t, filepath.Join(path, "ours"), "text")
	wantText(t, filepath.Join(path, "last"), "words")
}

// wantFiles checks the names in a directory.
func wantFiles(t testing.TB, dir string, want ...string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range list {
		got = append(got, e.Name())
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Fatalf("%s has %q, want %q", dir, got, want)
	}
}

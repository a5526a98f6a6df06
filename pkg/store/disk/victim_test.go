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

// victimIn makes the test's own program use a disk in a directory until it is
// killed, or until its input ends: the other process of tests.
const (
	victimIn   = "DREAMCORE_TEST_DISK_IN"
	victimDoes = "DREAMCORE_TEST_DISK_DOES"
)

func playVictim() {
	dir := os.Getenv(victimIn)
	if dir == "" {
		return
	}
	what := map[string]func(string) error{"churn": churn, "hold": hold, "move": move, "grow": grown}[os.Getenv(victimDoes)]
	if err := what(dir); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// churn mounts and unmounts, and counts in a file how often.
func churn(dir string) error {
	s, err := New(options(dir, idleFor(time.Millisecond), fromBefore(dir)))
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

// hold uses the disk until its input ends.
func hold(dir string) error {
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

// move moves what is from before into a disk.
func move(dir string) error {
	s, err := New(options(dir, fromBefore(dir)))
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

// victim is a process that plays.
type victim struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
}

func startVictim(t testing.TB, dir, what string) *victim {
	t.Helper()
	v := &victim{cmd: exec.Command(os.Args[0])}
	v.cmd.Env = append(os.Environ(), victimIn+"="+dir, victimDoes+"="+what)
	var err error
	if v.stdin, err = v.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := v.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	v.stdout = bufio.NewReader(out)
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.kill)
	if line, err := v.stdout.ReadString('\n'); line != "ready\n" {
		t.Fatalf("the other process: %q, %v", line, err)
	}
	return v
}

func (v *victim) kill() {
	if v.cmd.ProcessState == nil {
		_ = v.cmd.Process.Kill()
		_ = v.cmd.Wait()
	}
}

// end lets a victim that holds a disk end by itself.
func (v *victim) end(t *testing.T) {
	t.Helper()
	v.stdin.Close()
	said, _ := io.ReadAll(v.stdout)
	if err := v.cmd.Wait(); err != nil || len(said) > 0 {
		t.Fatalf("the other process: %v, %s", err, said)
	}
}

func TestAfterAKillTheNextProcessGoesOn(t *testing.T) {
	s := newStore(t)
	dir := filepath.Dir(s.opts.Images)
	most := 0
	for range 12 {
		v := startVictim(t, dir, "churn")
		time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond)
		v.kill()
		next := openStore(t, dir)
		if err := next.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		if mounts, _ := below(t, dir); len(mounts) > 0 {
			t.Fatalf("swept, and yet there are %q", mounts)
		}
		path, release := acquire(t, next, key)
		data, err := os.ReadFile(filepath.Join(path, "count"))
		if err != nil && !errors.Is(err, os.ErrNotExist) || strings.Trim(string(data), "x") != "" {
			t.Fatalf("%q, %v", data, err)
		}
		most = max(most, len(data))
		if out, err := checkFS(next, release); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		wantNothingLeft(t, dir)
		wantFiles(t, next.opts.Images, key+imageExtension, key+lockExtension)
	}
	if most < 3 {
		t.Fatalf("no process got far: %d", most)
	}
}

func TestAGrowthThatIsKilledComesToItsEnd(t *testing.T) {
	for range 8 {
		s := newStore(t)
		dir := filepath.Dir(s.opts.Images)
		path, release := acquire(t, s, key)
		write(t, filepath.Join(path, "kept"), strings.Repeat("text", 1<<18))
		release()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		v := startVictim(t, dir, "grow")
		time.Sleep(time.Duration(rand.IntN(100)) * time.Millisecond)
		v.kill()
		next := openStore(t, dir, sized(grownBytes))
		if err := next.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		path, release = acquire(t, next, key)
		wantText(t, filepath.Join(path, "kept"), strings.Repeat("text", 1<<18))
		var st unix.Statfs_t
		if err := unix.Statfs(path, &st); err != nil || int64(st.Bavail)*st.Bsize < grownBytes*8/10 {
			t.Fatalf("%d blocks free, %v", st.Bavail, err)
		}
		if out, err := checkFS(next, release); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
}

func TestAMountOfADeadProcessIsUsedAgain(t *testing.T) {
	s := newStore(t)
	v := startVictim(t, filepath.Dir(s.opts.Images), "hold")
	v.kill()
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
	v := startVictim(t, dir, "hold")
	write(t, filepath.Join(path, "ours"), "text")
	release()
	if err := errors.Join(s.Sweep(t.Context()), s.Close()); err != nil {
		t.Fatal(err)
	}
	wantText(t, filepath.Join(path, "ours"), "text") // the other one has it
	if _, devices := below(t, dir); len(devices) != 1 {
		t.Fatal(devices)
	}
	v.end(t)
	wantNothingLeft(t, dir)
	again := openStore(t, dir)
	path, release = acquire(t, again, key)
	defer release()
	wantText(t, filepath.Join(path, "ours"), "text")
	wantText(t, filepath.Join(path, "last"), "words")
}

// wantFiles checks what is in a directory.
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

package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

func TestMain(m *testing.M) {
	runProcess()
	goleak.VerifyTestMain(m)
}

const (
	testBytes = 32 << 20
	key       = "11111111-1111-4111-8111-111111111111"
	deadline  = 30 * time.Second
)

func needDisks(t testing.TB) {
	t.Helper()
	_, err := os.Stat(loopControl)
	sandboxtest.Need(t, os.Geteuid() == 0 && err == nil, "root and loop devices")
	_, err = lookPath("mkfs.ext4")
	sandboxtest.Need(t, err == nil, "mkfs.ext4 of e2fsprogs")
}

// newStore returns a Store in a directory of its own, in which nothing may be
// mounted or attached at the end.
func newStore(t testing.TB, change ...func(*Options)) *Store {
	t.Helper()
	needDisks(t)
	dir := t.TempDir()
	t.Cleanup(func() { wantNothingLeft(t, dir) })
	return openStore(t, dir, change...)
}

func openStore(t testing.TB, dir string, change ...func(*Options)) *Store {
	t.Helper()
	s, err := New(options(dir, change...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func options(dir string, change ...func(*Options)) Options {
	o := Options{Images: filepath.Join(dir, "images"), Mounts: filepath.Join(dir, "mounts"), Bytes: testBytes, Idle: time.Hour}
	for _, c := range change {
		c(&o)
	}
	return o
}

func logTo(w io.Writer) func(*Options) {
	return func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(w, nil)) }
}

func idleFor(d time.Duration) func(*Options) { return func(o *Options) { o.Idle = d } }
func sized(n int64) func(*Options)           { return func(o *Options) { o.Bytes = n } }

func acquire(t testing.TB, s *Store, key string) (string, func()) {
	t.Helper()
	path, release, err := s.Acquire(t.Context(), key)
	if err != nil {
		t.Fatalf("%v (%s)", err, dreamcore.HintOf(err))
	}
	return path, release
}

// below returns the mounts and loop devices below a directory.
func below(t testing.TB, dir string) (mounts, devices []string) {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			mounts = append(mounts, f[4])
		}
	}
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && strings.HasPrefix(string(text), dir+"/") {
			devices = append(devices, file)
		}
	}
	return mounts, devices
}

func wantNothingLeft(t testing.TB, dir string) {
	t.Helper()
	until(t, "nothing is mounted and attached", func() bool {
		mounts, devices := below(t, dir)
		return len(mounts)+len(devices) == 0
	})
}

func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("timed out waiting until %s", what)
		}
	}
}

func wantError(t *testing.T, err error, code dreamcore.Code, message, hint string) {
	t.Helper()
	if err == nil || dreamcore.CodeOf(err) != code || !strings.Contains(err.Error(), message) || !strings.Contains(dreamcore.HintOf(err), hint) {
		t.Fatalf("got %v (%s; hint %q), want %s %q, %q", err, dreamcore.CodeOf(err), dreamcore.HintOf(err), code, message, hint)
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func wantText(t testing.TB, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Fatalf("%s: %q, %v; want %q", path, got, err, want)
	}
}

// fillUp writes until there is no space, and returns how many bytes fit.
func fillUp(t testing.TB, path string) int64 {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	chunk := bytes.Repeat([]byte{0xa5}, 256<<10)
	for total := int64(0); ; {
		n, err := f.Write(chunk)
		total += int64(n)
		if errors.Is(err, unix.ENOSPC) {
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
			return total
		}
		if err != nil || total > 1<<30 {
			t.Fatalf("after %d bytes: %v", total, err)
		}
	}
}

func TestWritingPastTheEndOfADiskReturnsENOSPC(t *testing.T) {
	s := newStore(t)
	path, release := acquire(t, s, key)
	defer release()
	got := fillUp(t, filepath.Join(path, "big"))
	if got > testBytes || got < testBytes*6/10 {
		t.Fatalf("%d of %d bytes fit", got, testBytes)
	}
	image := s.file(key, imageExtension)
	var st unix.Stat_t
	if err := unix.Stat(image, &st); err != nil || st.Blocks*512 > testBytes || st.Mode&0o777 != fileMode {
		t.Fatalf("%+v, %v", st, err)
	}
	// A full disk can be read, emptied and written to again.
	data, err := os.ReadFile(filepath.Join(path, "big"))
	if err != nil || int64(len(data)) < got {
		t.Fatal(len(data), err)
	}
	if err := os.Remove(filepath.Join(path, "big")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(path, "a/b"), "kept")
	release()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// The space of removed files is returned to the host.
	if err := unix.Stat(image, &st); err != nil || st.Blocks*512 > testBytes/4 {
		t.Fatalf("the image has %d bytes, %v", st.Blocks*512, err)
	}
	again := openStore(t, filepath.Dir(s.opts.Images))
	path, release = acquire(t, again, key)
	defer release()
	wantText(t, filepath.Join(path, "a/b"), "kept")
}

func TestADiskHoldsManySmallFiles(t *testing.T) {
	s := newStore(t)
	path, release := acquire(t, s, key)
	defer release()
	for i := range 3000 {
		if err := os.WriteFile(filepath.Join(path, fmt.Sprint(i)), nil, 0o644); err != nil {
			t.Fatalf("file %d: %v", i, err)
		}
	}
	for i := 3000; ; i++ {
		err := os.WriteFile(filepath.Join(path, fmt.Sprint(i)), nil, 0o644)
		if errors.Is(err, unix.ENOSPC) {
			break
		}
		if err != nil || i > testBytes {
			t.Fatal(i, err)
		}
	}
}

func TestMountOptionsOfADisk(t *testing.T) {
	s := newStore(t, func(o *Options) { o.UID, o.GID = 123, 456 })
	path, release := acquire(t, s, key)
	defer release()
	table, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(table)) {
		if strings.Contains(line, " "+path+" ") {
			for _, option := range []string{"nosuid", "nodev", "noatime"} {
				if !strings.Contains(line, option) {
					t.Errorf("no %s: %s", option, line)
				}
			}
			if strings.Contains(line, "noexec") {
				t.Error("programs must run")
			}
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); st.Uid != 123 || st.Gid != 456 || info.Mode().Perm() != 0o700 {
		t.Fatalf("%v, %d:%d", info.Mode(), st.Uid, st.Gid)
	}
}

func TestFindCreatesNothing(t *testing.T) {
	s := newStore(t)
	_, _, err := s.Find(t.Context(), key)
	wantError(t, err, dreamcore.CodeNotFound, key, "first project")
	if left, _ := os.ReadDir(filepath.Dir(s.opts.Images)); len(left) != 0 {
		t.Fatalf("made %v", left)
	}
	write(t, filepath.Join(s.opts.Mounts, key, "old"), "text")
	os.Chmod(s.opts.Mounts, 0o700)
	path, release, err := s.Find(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	wantText(t, filepath.Join(path, "old"), "text")
	if there, _ := exists(s.file(key, imageExtension)); there {
		t.Fatal("reading created an image")
	}
	release()
	if mounts, devices := below(t, filepath.Dir(s.opts.Images)); len(mounts)+len(devices) != 0 {
		t.Fatal(mounts, devices)
	}
}

func TestAnIdleDiskIsUnmountedAndMountedAgain(t *testing.T) {
	s := newStore(t, idleFor(20*time.Millisecond))
	for range 3 {
		path, release := acquire(t, s, key)
		_, second := acquire(t, s, key)
		release()
		release() // repeated
		time.Sleep(60 * time.Millisecond)
		if state, err := mounted(s.file(key, imageExtension), path); state != imageMounted || err != nil {
			t.Fatal("unmounted while in use", err)
		}
		second()
		until(t, "the idle disk is unmounted", func() bool {
			state, err := mounted(s.file(key, imageExtension), path)
			return err == nil && state == notMounted
		})
	}
}

func TestAnOpenFileKeepsAnIdleDiskMounted(t *testing.T) {
	s := newStore(t)
	path, release := acquire(t, s, key)
	f, err := os.Create(filepath.Join(path, "open"))
	if err != nil {
		t.Fatal(err)
	}
	release()
	if err := s.Close(); !errors.Is(err, unix.EBUSY) {
		t.Fatalf("got %v", err)
	}
	f.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestTheLastReleaseAfterCloseUnmounts(t *testing.T) {
	s := newStore(t)
	path, release := acquire(t, s, key)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(path, "still"), "usable")
	if _, _, err := s.Acquire(t.Context(), key); !errors.Is(err, os.ErrClosed) {
		t.Fatalf("got %v", err)
	}
	release()
	wantNothingLeft(t, filepath.Dir(s.opts.Images))
}

func TestManyConcurrentUsesOfOneDisk(t *testing.T) {
	s := newStore(t, idleFor(time.Millisecond)) // unmounts all the time
	other := openStore(t, filepath.Dir(s.opts.Images), idleFor(2*time.Millisecond))
	var all sync.WaitGroup
	stop := make(chan struct{})
	watch := make(chan int)
	go func() {
		most := 0
		for {
			_, devices := below(t, filepath.Dir(s.opts.Images))
			most = max(most, len(devices))
			select {
			case <-stop:
				watch <- most
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	for i := range 6 {
		store := []*Store{s, other}[i%2]
		all.Go(func() {
			for n := range 15 {
				path, release, err := store.Acquire(t.Context(), key)
				if err != nil {
					t.Error(err)
					return
				}
				file := filepath.Join(path, fmt.Sprint(i))
				if n > 0 {
					if got, err := os.ReadFile(file); err != nil || string(got) != fmt.Sprint(n-1) {
						t.Errorf("%s: %q, %v, want %d", file, got, err, n-1)
					}
				}
				if err := os.WriteFile(file, []byte(fmt.Sprint(n)), 0o644); err != nil {
					t.Error(err)
				}
				release()
				time.Sleep(time.Duration(i) * time.Millisecond)
			}
		})
	}
	all.Wait()
	close(stop)
	if most := <-watch; most != 1 {
		t.Fatalf("%d loop devices of one image", most)
	}
}

func TestAnAttachedImageIsNotAttachedAgain(t *testing.T) {
	s := newStore(t)
	path, release := acquire(t, s, key)
	write(t, filepath.Join(path, "a"), "text")
	image := s.file(key, imageExtension)
	dev, err := attach(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	if _, devices := below(t, filepath.Dir(s.opts.Images)); len(devices) != 1 {
		t.Fatal(devices)
	}
	dev.Close()
	// It is still mounted in another mount namespace or in a sandbox that is
	// ending.
	elsewhere := filepath.Join(filepath.Dir(s.opts.Images), "elsewhere")
	os.Mkdir(elsewhere, 0o700)
	if err := unix.Mount(path, elsewhere, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(elsewhere, unix.MNT_DETACH)
	release()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, devices := below(t, filepath.Dir(s.opts.Images)); len(devices) != 1 {
		t.Fatal(devices)
	}
	again := openStore(t, filepath.Dir(s.opts.Images))
	path, release = acquire(t, again, key)
	defer release()
	wantText(t, filepath.Join(path, "a"), "text")
	write(t, filepath.Join(elsewhere, "b"), "one cache")
	wantText(t, filepath.Join(path, "b"), "one cache")
	if _, devices := below(t, filepath.Dir(s.opts.Images)); len(devices) != 1 {
		t.Fatal(devices)
	}
}

func TestOtherMountsAtTheMountPointStay(t *testing.T) {
	s := newStore(t)
	_, release := acquire(t, s, key)
	release()
	s.Close()
	dir := filepath.Join(s.opts.Mounts, key)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	again := openStore(t, filepath.Dir(s.opts.Images))
	_, _, err := again.Acquire(t.Context(), key)
	wantError(t, err, dreamcore.CodeSetup, "something else is mounted", "umount "+dir)
	if err := again.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if state, _ := mounted(again.file(key, imageExtension), dir); state != otherMounted {
		t.Fatal("it was unmounted")
	}
}

func TestAcquireStopsWithItsContext(t *testing.T) {
	s := newStore(t)
	other := openStore(t, filepath.Dir(s.opts.Images))
	write(t, filepath.Join(s.opts.Mounts, key, "old"), "text")
	os.Chmod(s.opts.Mounts, 0o700)
	_, release, err := other.Find(t.Context(), key) // a reader of the plain directory
	if err != nil {
		t.Fatal(err)
	}
	for _, store := range []*Store{s, other} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if _, _, err := store.Acquire(ctx, key); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		cancel()
	}
	wantText(t, filepath.Join(s.opts.Mounts, key, "old"), "text")
	release()
}

func TestNoDescriptorLeaks(t *testing.T) {
	s := newStore(t)
	count := func() int {
		runtime.GC()
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	_, release := acquire(t, s, key)
	release()
	before := count()
	for range 5 {
		_, release := acquire(t, s, key)
		release()
		d := s.disk(key)
		d.lock()
		if _, err := s.retire(d); err != nil {
			t.Fatal(err)
		}
		d.unlock()
	}
	if after := count(); after > before {
		t.Fatalf("%d descriptors, then %d", before, after)
	}
}

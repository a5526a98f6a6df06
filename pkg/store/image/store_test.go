package image

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// If this variable is set, TestMain becomes a process that uses an image.
const useEnv = "DREAMCORE_TEST_IMAGE_USE"

// useForParent uses an image until standard input ends.
func useForParent() {
	dir, digest, ok := strings.Cut(os.Getenv(useEnv), "|")
	if !ok {
		return
	}
	s, err := Open(dir, Options{})
	if err != nil {
		panic(err)
	}
	if _, _, err := s.Use(Image{Digest: digest}); err != nil {
		panic(err)
	}
	os.Stdout.WriteString("ready\n")
	_, _ = os.Stdin.Read(make([]byte, 1))
	os.Exit(0)
}

func stored(t *testing.T) (s *Store, reg *testRegistry, one, two Image) {
	t.Helper()
	reg = newRegistry(t)
	s = newStore(t, Limits{})
	a, _ := reg.push(t, "one", "v1", simple(t, "1"))
	b, _ := reg.push(t, "two", "v1", simple(t, "22"))
	return s, reg, pull(t, s, a), pull(t, s, b)
}

func age(t *testing.T, s *Store, img Image, d time.Duration) {
	t.Helper()
	when := time.Now().Add(-d)
	if err := s.root.Chtimes(filepath.Join(dirName(img.Digest), lockFile), when, when); err != nil {
		t.Fatal(err)
	}
}

func TestList(t *testing.T) {
	s, reg, one, two := stored(t)
	more, _ := reg.push(t, "more", "v1", simple(t, "1"))
	pull(t, s, more)
	age(t, s, one, time.Hour)
	use(t, s, two)
	images, err := s.List()
	if err != nil || len(images) != 2 {
		t.Fatalf("%+v, %v", images, err)
	}
	a, b := images[0], images[1]
	if a.Digest != two.Digest || !a.InUse || a.Size != 2 || len(a.References) != 1 {
		t.Errorf("first is %+v", a)
	}
	if b.Digest != one.Digest || b.InUse || b.Size != 1 || len(b.References) != 2 || b.References[0] != more || time.Since(b.LastUsed) < 59*time.Minute {
		t.Errorf("second is %+v", b)
	}
}

func TestPruneRemovesUnusedImages(t *testing.T) {
	s, _, one, two := stored(t)
	age(t, s, one, 48*time.Hour)
	removed, err := s.Prune(t.Context(), PruneOptions{UnusedFor: 24 * time.Hour})
	if err != nil || len(removed) != 1 || removed[0].Digest != one.Digest || removed[0].Size != 1 || len(removed[0].References) != 1 {
		t.Fatalf("%+v, %v", removed, err)
	}
	wantClean(t, s, 1)
	_, err = s.Lookup(one.References[0])
	wantError(t, err, dreamcore.CodeNotFound, "not on this machine")
	_, _, err = s.Use(one)
	wantError(t, err, dreamcore.CodeNotFound, "not on this machine")
	if refs, err := s.references(); err != nil || len(refs) != 1 {
		t.Errorf("references: %v, %v", refs, err)
	}
	if removed, err = s.Prune(t.Context(), PruneOptions{All: true}); err != nil || len(removed) != 1 || removed[0].Digest != two.Digest {
		t.Fatalf("%+v, %v", removed, err)
	}
	wantClean(t, s, 0)
	// A removed image can be pulled again.
	pull(t, s, one.References[0])
	wantClean(t, s, 1)
	_, err = s.Prune(t.Context(), PruneOptions{})
	wantError(t, err, dreamcore.CodeInvalid, "no images were selected")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Prune(ctx, PruneOptions{All: true}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	wantClean(t, s, 1)
}

func TestImageInUseIsNotPruned(t *testing.T) {
	s, _, one, two := stored(t)
	for _, img := range []Image{one, two} {
		age(t, s, img, time.Hour)
	}
	root, release, err := s.Use(one)
	if err != nil {
		t.Fatal(err)
	}
	_, again, err := s.Use(one)
	if err != nil {
		t.Fatal(err)
	}
	if found, err := s.Lookup(one.Digest); err != nil || time.Since(found.LastUsed) > time.Minute {
		t.Errorf("%+v, %v", found, err)
	}
	removed, err := s.Prune(t.Context(), PruneOptions{All: true})
	if err != nil || len(removed) != 1 || removed[0].Digest != two.Digest {
		t.Fatalf("%+v, %v", removed, err)
	}
	wantTree(t, root, "bin/", "bin/sh=1")
	release()
	release()
	if removed, err = s.Prune(t.Context(), PruneOptions{All: true}); err != nil || len(removed) != 0 {
		t.Fatalf("the second user was forgotten: %+v, %v", removed, err)
	}
	age(t, s, one, time.Hour)
	again()
	// The end of a use counts as use.
	if removed, err = s.Prune(t.Context(), PruneOptions{UnusedFor: time.Minute}); err != nil || len(removed) != 0 {
		t.Fatalf("%+v, %v", removed, err)
	}
	if removed, err = s.Prune(t.Context(), PruneOptions{All: true}); err != nil || len(removed) != 1 {
		t.Fatalf("%+v, %v", removed, err)
	}
}

func TestUseByAnotherProcessEndsWithIt(t *testing.T) {
	s, _, one, _ := stored(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), useEnv+"="+s.dir+"|"+one.Digest)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	if found, err := s.Lookup(one.Digest); err != nil || !found.InUse {
		t.Errorf("%+v, %v", found, err)
	}
	if removed, err := s.Prune(t.Context(), PruneOptions{All: true}); err != nil || len(removed) != 1 {
		t.Fatalf("%+v, %v", removed, err)
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if found, err := s.Lookup(one.Digest); err != nil || found.InUse {
		t.Errorf("%+v, %v", found, err)
	}
	if removed, err := s.Prune(t.Context(), PruneOptions{All: true}); err != nil || len(removed) != 1 {
		t.Fatalf("%+v, %v", removed, err)
	}
	wantClean(t, s, 0)
}

func TestLockOfARemovedImageIsInvalid(t *testing.T) {
	s, _, one, _ := stored(t)
	f, err := s.root.OpenFile(filepath.Join(dirName(one.Digest), lockFile), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := s.Prune(t.Context(), PruneOptions{All: true}); err != nil {
		t.Fatal(err)
	}
	pull(t, s, one.References[0])
	if err := s.stillThere(dirName(one.Digest), f); !errors.Is(err, errNotHere) {
		t.Errorf("the lock of the removed image is taken for the lock of the new one: %v", err)
	}
}

func TestUseDuringAPruneFindsNoImage(t *testing.T) {
	s, _, one, _ := stored(t)
	dir := dirName(one.Digest)
	f, err := s.lockExclusive(dir)
	if f == nil || err != nil {
		t.Fatal(f, err)
	}
	failed := make(chan error)
	go func() {
		_, _, err := s.Use(one)
		failed <- err
	}()
	select {
	case err := <-failed:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(50 * time.Millisecond): // it most likely waits by now; if not, it finds no image at once
	}
	if err := errors.Join(s.discard(dir), f.Close()); err != nil {
		t.Fatal(err)
	}
	wantError(t, <-failed, dreamcore.CodeNotFound, "not on this machine")
}

func TestBrokenImageIsIgnored(t *testing.T) {
	for name, broken := range map[string]func(dir string) error{
		"no note":     func(dir string) error { return os.Remove(filepath.Join(dir, noteFile)) },
		"no lock":     func(dir string) error { return os.Remove(filepath.Join(dir, lockFile)) },
		"half a note": func(dir string) error { return os.WriteFile(filepath.Join(dir, noteFile), []byte(`{"dig`), 0o600) },
		"another image": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, noteFile), []byte(`{"digest":"x"}`), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, _, one, two := stored(t)
			if err := broken(filepath.Join(s.dir, dirName(one.Digest))); err != nil {
				t.Fatal(err)
			}
			images, err := s.List()
			if err != nil || len(images) != 1 || images[0].Digest != two.Digest {
				t.Fatalf("%+v, %v", images, err)
			}
			_, err = s.Lookup(one.Digest)
			wantError(t, err, dreamcore.CodeNotFound, "not on this machine")
			// A pull replaces it.
			got, unpacked, err := s.Pull(t.Context(), one.References[0], nil)
			if err != nil || !unpacked {
				t.Fatal(unpacked, err)
			}
			wantTree(t, use(t, s, got), "bin/", "bin/sh=1")
			wantClean(t, s, 2)
			// And a prune removes it.
			if err := broken(filepath.Join(s.dir, dirName(two.Digest))); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Prune(t.Context(), PruneOptions{All: true}); err != nil {
				t.Fatal(err)
			}
			wantClean(t, s, 1)
		})
	}
}

func TestInvalidReferenceFilesAreIgnored(t *testing.T) {
	s, _, one, _ := stored(t)
	ref := one.References[0]
	r, err := parse(ref)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "{", `{"reference":"` + ref + `","digest":"../../x"}`, `{"reference":"other","digest":"` + one.Digest + `"}`} {
		if err := s.root.WriteFile(refFile(r.text), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := s.Lookup(ref)
		wantError(t, err, dreamcore.CodeNotFound, "not on this machine")
	}
	if got := pull(t, s, ref); got.Digest != one.Digest || len(got.References) != 1 {
		t.Errorf("%+v", got)
	}
	// Temporary files of interrupted writers are removed after a while.
	for name, d := range map[string]time.Duration{".old": 2 * tempAge, ".new": 0} {
		file := filepath.Join(refsDir, name)
		if err := s.root.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		when := time.Now().Add(-d)
		if err := s.root.Chtimes(file, when, when); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Prune(t.Context(), PruneOptions{UnusedFor: time.Hour}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.root.Stat(filepath.Join(refsDir, ".old")); err == nil {
		t.Error("an old temporary file stayed")
	}
	if _, err := s.root.Stat(filepath.Join(refsDir, ".new")); err != nil {
		t.Error("a new temporary file was removed")
	}
}

func TestUnusableDirectoryIsAnErrorWithAHint(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(filepath.Join(file, "images"), Options{})
	wantError(t, err, dreamcore.CodeSetup, "cannot open the directory of images")
	s := newStore(t, Limits{})
	_, _, err = s.Use(Image{Digest: "../../x"})
	wantError(t, err, dreamcore.CodeInvalid, "not a digest")
}

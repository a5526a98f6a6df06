package volume

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// lockHolder makes the test binary hold a lock, as the other process of
// TestALockHoldsAcrossProcessesAndEndsWithThem.
const lockHolder = "DREAMCORE_TEST_LOCK_IN"

func holdLockForParent() {
	state := os.Getenv(lockHolder)
	if state == "" {
		return
	}
	s, err := Open(filepath.Join(state, "volumes"), Options{})
	if err == nil {
		_, err = s.TryLock(user, project)
	}
	fmt.Println(err)
	io.Copy(io.Discard, os.Stdin) // until the parent closes it
	os.Exit(0)
}

func TestALockHasOneHolder(t *testing.T) {
	s, _ := newStore(t)
	var inside, worked atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 10 {
				unlock, err := s.Lock(t.Context(), user, project)
				if err != nil {
					t.Error(err)
					return
				}
				if inside.Add(1) != 1 {
					t.Error("two hold the lock")
				}
				worked.Add(1)
				inside.Add(-1)
				unlock()
			}
		})
	}
	all.Wait()
	if worked.Load() != 80 {
		t.Fatalf("%d", worked.Load())
	}
}

func TestTryLockOfALockedProjectIsAConflict(t *testing.T) {
	s, _ := newStore(t)
	unlock, err := s.TryLock(user, project)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.TryLock(user, project)
	wantError(t, err, dreamcore.CodeConflict, "in use")
	other, err := s.TryLock(user, dreamcore.NewProjectID())
	if err != nil {
		t.Fatalf("another project: %v", err)
	}
	other()
	unlock()
	unlock()
	again, err := s.TryLock(user, project)
	if err != nil {
		t.Fatal(err)
	}
	unlock() // by an earlier holder: must not release the lock of this one
	_, err = s.TryLock(user, project)
	wantError(t, err, dreamcore.CodeConflict, "in use")
	again()
}

func TestLockStopsWaitingWithItsContext(t *testing.T) {
	s, _ := newStore(t)
	unlock, err := s.Lock(t.Context(), user, project)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := s.Lock(ctx, user, project); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	unlock()
	if _, err := s.Lock(ctx, user, project); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Lock with an ended context: %v", err)
	}
}

func TestALockHoldsAcrossProcessesAndEndsWithThem(t *testing.T) {
	s, state := newStore(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), lockHolder+"="+state)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer stdin.Close()
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "<nil>\n" {
		t.Fatalf("the other process: %q, %v", line, err)
	}
	_, err = s.TryLock(user, project)
	wantError(t, err, dreamcore.CodeConflict, "in use")
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	unlock, err := s.Lock(t.Context(), user, project)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

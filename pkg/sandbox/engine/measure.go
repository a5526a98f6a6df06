package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Without a cgroup, nothing holds a sandbox below its memory limit. Its memory is
// measured instead, and it is ended beyond the limit. Programs in it may exceed the
// limit by what they use between two measurements.

// fastest is the most memory, in bytes for each second, that a sandbox is expected to take.
const fastest = 4 << 30

// Bounds of the time between two measurements.
const (
	measureSoonest = 10 * time.Millisecond
	measureLatest  = 500 * time.Millisecond
)

// pause returns the time until a sandbox with room bytes left is measured again.
func pause(room int64) time.Duration {
	if room >= fastest {
		return measureLatest
	}
	return min(max(time.Duration(room)*time.Second/fastest, measureSoonest), measureLatest)
}

// measureMemory ends the sandbox when it uses more than limit bytes. It returns when the
// sandbox has ended.
func (b *box) measureMemory(limit int64) {
	wait := time.NewTimer(0)
	defer wait.Stop()
	for {
		select {
		case <-b.lost:
			return
		case <-wait.C:
		}
		used, err := b.memory()
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ESRCH):
			wait.Reset(measureLatest) // it ends
			continue
		case err != nil:
			b.provider.log.Error("measure the memory of a sandbox: it is ended", "sandbox", b.Box.ID, "error", err)
		case used <= limit:
			wait.Reset(pause(limit - used))
			continue
		default:
			b.oomKilled.Store(true)
		}
		ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
		_, err = b.kill(ctx)
		cancel()
		if err != nil {
			b.provider.log.Error("end a sandbox beyond its memory", "sandbox", b.Box.ID, "error", err)
		}
		wait.Reset(measureLatest) // until it has ended
	}
}

// memory returns the bytes of memory that the guest's kernel and the programs in it use.
// All memory of the programs is in memory files of the kernel.
func (b *box) memory() (int64, error) {
	raw, err := os.ReadFile(b.PIDFile)
	if err != nil {
		return 0, err
	}
	dir := filepath.Join("/proc", strings.TrimSpace(string(raw)))
	own, err := anonymous(dir)
	if err != nil {
		return 0, err
	}
	files, err := memoryFiles(dir)
	return own + files, err
}

// anonymous returns the bytes of memory of a process that belong to no file.
func anonymous(dir string) (int64, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(raw) {
		if rest, ok := bytes.CutPrefix(line, []byte("RssAnon:")); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(string(rest)), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("%s: no RssAnon: %w", dir, fs.ErrNotExist) // it is ending
}

// memoryFiles returns the bytes of the memory files that a process has open. Blocks that
// were never written take none.
func memoryFiles(dir string) (bytes int64, err error) {
	fds, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		return 0, err
	}
	seen := map[uint64]bool{}
	for _, fd := range fds {
		path := filepath.Join(dir, "fd", fd.Name())
		target, err := os.Readlink(path)
		if err == nil && !strings.HasPrefix(target, "/memfd:") {
			continue
		}
		var fi fs.FileInfo
		if err == nil {
			fi, err = os.Stat(path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue // closed meanwhile
		}
		if err != nil {
			return 0, err
		}
		if st, ok := fi.Sys().(*syscall.Stat_t); ok && !seen[st.Ino] {
			seen[st.Ino] = true
			const blockBytes = 512 // of stat
			bytes += st.Blocks * blockBytes
		}
	}
	return bytes, nil
}

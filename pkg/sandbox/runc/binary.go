package runc

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// maxBinary bounds the size of the uncompressed runc binary in bytes.
const maxBinary = 32 << 20

// Version returns the version of the embedded runc, or "" if runc is not embedded.
func Version() string {
	v, _, err := release(embedded, "embedded/"+runtime.GOARCH)
	if err != nil {
		return ""
	}
	return v
}

// release returns what scripts/runc.sh recorded about the runc binary in dir.
func release(files fs.FS, dir string) (version, digest string, err error) {
	b, err := fs.ReadFile(files, path.Join(dir, "runc.sum"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", "", &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "this program was built without runc", Err: err,
			Hint: "build it with scripts/build.sh on a host with gcc and libseccomp-dev, or use gVisor",
		}
	}
	if err != nil {
		return "", "", err
	}
	digest, version, ok := strings.Cut(strings.TrimSpace(string(b)), "  runc ")
	if raw, herr := hex.DecodeString(digest); !ok || version == "" || herr != nil || len(raw) != sha256.Size {
		return "", "", fmt.Errorf("%s/runc.sum is malformed: %q", dir, b)
	}
	return version, digest, nil
}

// binary is runc in a sealed memory file that the commands of all providers of
// this process share. It exists in no directory, so it cannot be replaced.
type binary struct {
	mu    sync.Mutex
	file  *os.File
	users int // number of open calls without a close
}

var shared binary

// open returns the sealed file for one more user, who must call close. The first
// call unpacks it, which takes a moment.
func (b *binary) open() (*os.File, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.file == nil {
		f, err := unpack(embedded, "embedded/"+runtime.GOARCH)
		if err != nil {
			return nil, err
		}
		b.file = f
	}
	b.users++
	return b.file, nil
}

// close ends the use by one user; the last one frees the memory.
func (b *binary) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.users--; b.users > 0 {
		return nil
	}
	f := b.file
	b.file = nil
	return f.Close()
}

// unpack unpacks the runc binary of dir into a sealed memory file.
func unpack(files fs.FS, dir string) (*os.File, error) {
	_, want, err := release(files, dir)
	if err != nil {
		return nil, err
	}
	packed, err := fs.ReadFile(files, path.Join(dir, "runc.gz"))
	if err != nil {
		return nil, fmt.Errorf("unpack runc: %w", err)
	}
	zr, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("unpack runc: %w", err)
	}
	program, err := io.ReadAll(io.LimitReader(zr, maxBinary+1))
	if err != nil {
		return nil, fmt.Errorf("unpack runc: %w", err)
	}
	if len(program) > maxBinary {
		return nil, fmt.Errorf("unpack runc: the binary is larger than %d bytes", maxBinary)
	}
	if sum := sha256.Sum256(program); hex.EncodeToString(sum[:]) != want {
		return nil, fmt.Errorf("unpack runc: the digest is %x, want %s", sum, want)
	}
	f, err := seal(program)
	if err != nil {
		return nil, fmt.Errorf("unpack runc: %w", err)
	}
	return f, nil
}

// seals prevent any change of a file, even by root.
const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE

// seal writes a program to an executable sealed memory file and reopens it
// read-only, because a file that is open for writing cannot be executed. Until
// then no other goroutine may start a child, which would briefly inherit the
// writable descriptor.
func seal(program []byte) (*os.File, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	flags := unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate("runc", flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3, memory files are always executable
		fd, err = unix.MemfdCreate("runc", flags)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	w := os.NewFile(uintptr(fd), "runc")
	defer w.Close()
	if _, err := w.Write(program); err != nil {
		return nil, err
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return nil, os.NewSyscallError("seal", err)
	}
	return os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
}

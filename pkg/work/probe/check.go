package probe

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/rootfs"
)

// greeting is what SandboxIO sends; the contract fixes it.
const greeting = "hello"

// IOResult is what SandboxIO saw.
type IOResult struct {
	Input  string
	Output string
	Match  bool // Output is exactly Input
}

// SandboxIO sends "hello" to cat in a sandbox and returns what came back. A
// different answer is no error.
func (p *Prober) SandboxIO(ctx context.Context) (IOResult, error) {
	ctx, cancel := p.limited(ctx)
	defer cancel()
	out := &output{limit: maxOutput}
	err := p.within(ctx, nil, func(sb sandbox.Sandbox) error {
		if err := p.run(ctx, sb, greeting, out, "/bin/cat"); err != nil {
			return failed("cat could not be run in a sandbox", err)
		}
		return nil
	})
	if err != nil {
		return IOResult{}, fmt.Errorf("check input and output: %w", err)
	}
	got := out.buf.String()
	return IOResult{Input: greeting, Output: strings.ToValidUTF8(got, "\uFFFD"), Match: got == greeting}, nil
}

// Kernel is the kernel that a program in a sandbox saw.
type Kernel struct {
	ProcVersion string // /proc/version, without the newline at its end
	IsGVisor    bool
}

// GVisor tells which kernel programs in a sandbox meet. IsGVisor needs gVisor
// to show in /proc/version or in the kernel log; a root without dmesg has only
// the first.
func (p *Prober) GVisor(ctx context.Context) (Kernel, error) {
	ctx, cancel := p.limited(ctx)
	defer cancel()
	version := &output{limit: maxOutput}
	kernelLog := &output{limit: maxOutput, cut: true}
	err := p.within(ctx, nil, func(sb sandbox.Sandbox) error {
		if err := p.run(ctx, sb, "", version, "/bin/cat", "/proc/version"); err != nil {
			return failed("/proc/version could not be read in a sandbox", err)
		}
		// A kernel may keep its log from ordinary users, and a root file
		// system may have no dmesg: then the log has nothing to say.
		if err := p.run(ctx, sb, "", kernelLog, "dmesg"); err != nil {
			if ctx.Err() != nil || errors.Is(err, sandbox.ErrLost) {
				return failed("the kernel log could not be read in a sandbox", err)
			}
			p.log.Debug("no kernel log in the sandbox", "sandbox", sb.ID(), "error", err)
		}
		return nil
	})
	if err != nil {
		return Kernel{}, fmt.Errorf("check the kernel: %w", err)
	}
	k := Kernel{ProcVersion: version.text()}
	k.IsGVisor = looksLikeGVisor(k.ProcVersion, kernelLog.text())
	return k, nil
}

// looksLikeGVisor knows gVisor by its version string ("Linux version
// 4.19.0-gvisor …", pkg/sentry/kernel/version.go there) and by the first line
// of its kernel log ("Starting gVisor...", pkg/sentry/kernel/syslog.go), which
// older releases have alone.
func looksLikeGVisor(procVersion, kernelLog string) bool {
	return strings.Contains(procVersion, "gvisor") || strings.Contains(kernelLog, "Starting gVisor")
}

// VolumeResult is what Volume saw.
type VolumeResult struct {
	TestID  string // UUID of this check
	Written string
	Read    string
	Match   bool // Read is exactly Written
}

// testFile is the name of the file that Volume writes.
const testFile = "test.txt"

// Volume writes a file of the data volume in one sandbox, ends it, and reads
// the file in a second one. A different text is no error. Nothing of it stays
// in the volume.
func (p *Prober) Volume(ctx context.Context) (_ VolumeResult, err error) {
	ctx, cancel := p.limited(ctx)
	defer cancel()
	id := uuid.NewString()
	dir, remove, err := p.cfg.Scratch(id)
	if err != nil {
		return VolumeResult{}, fmt.Errorf("check the volume: %w", failed("the data volume cannot be written", err))
	}
	defer func() {
		if rerr := remove(); rerr != nil {
			err = errors.Join(err, failed("the test file could not be removed from the data volume", rerr))
		}
	}()
	// The directory is new, and no program of a sandbox has seen it yet.
	if err := os.Lchown(dir, int(p.cfg.UID), int(p.cfg.GID)); err != nil {
		return VolumeResult{}, fmt.Errorf("check the volume: %w", failed("the data volume cannot be written", err))
	}
	mount := sandbox.Mount{Source: dir, Target: path.Join(rootfs.DataDir, "probe", id), Writable: true}
	result, err := p.writeThenRead(ctx, mount, "written by one sandbox, to be read by another: "+uuid.NewString())
	if err != nil {
		return VolumeResult{}, fmt.Errorf("check the volume: %w", err)
	}
	result.TestID = id
	return result, nil
}

func (p *Prober) writeThenRead(ctx context.Context, mount sandbox.Mount, text string) (VolumeResult, error) {
	file := path.Join(mount.Target, testFile)
	err := p.within(ctx, []sandbox.Mount{mount}, func(sb sandbox.Sandbox) error {
		if err := p.run(ctx, sb, text, nil, "/bin/sh", "-c", `cat > "$1"`, "sh", file); err != nil {
			return failed("a sandbox could not write to the data volume", err)
		}
		return nil
	})
	if err != nil {
		return VolumeResult{}, err
	}
	mount.Writable = false
	out := &output{limit: maxOutput}
	err = p.within(ctx, []sandbox.Mount{mount}, func(sb sandbox.Sandbox) error {
		if err := p.run(ctx, sb, "", out, "/bin/cat", file); err != nil {
			return failed("a second sandbox could not read the data volume", err)
		}
		return nil
	})
	if err != nil {
		return VolumeResult{}, err
	}
	got := out.buf.String()
	return VolumeResult{Written: text, Read: strings.ToValidUTF8(got, "\uFFFD"), Match: got == text}, nil
}

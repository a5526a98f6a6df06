package probe

import (
	"context"
	"errors"
	"os"
	"path"
	"strings"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/rootfs"
)

// greeting is the text that SandboxIO sends. Clients rely on it.
const greeting = "hello"

// IOResult is the result of SandboxIO.
type IOResult struct {
	Input  string
	Output string
	Match  bool // Output is exactly Input
}

// SandboxIO sends "hello" to cat in a sandbox and returns what came back. A
// different answer is not an error.
func (p *Prober) SandboxIO(ctx context.Context) (IOResult, error) {
	out := &output{limit: maxOutput}
	err := p.limited(ctx, "input and output", func(ctx context.Context) error {
		return p.within(ctx, nil, func(sb sandbox.Sandbox) error {
			return p.run(ctx, sb, "cat could not be run in a sandbox", greeting, out, "/bin/cat")
		})
	})
	if err != nil {
		return IOResult{}, err
	}
	got := out.buf.String()
	return IOResult{Input: greeting, Output: strings.ToValidUTF8(got, "\uFFFD"), Match: got == greeting}, nil
}

// Kernel describes the kernel that programs in a sandbox see.
type Kernel struct {
	ProcVersion string // /proc/version, without the newline at its end
	IsGVisor    bool
}

// GVisor returns the kernel that programs in a sandbox see. IsGVisor is set if
// /proc/version or the kernel log shows gVisor; without dmesg in the root, only
// the former counts.
func (p *Prober) GVisor(ctx context.Context) (Kernel, error) {
	version := &output{limit: maxOutput}
	kernelLog := &output{limit: maxOutput, cut: true}
	err := p.limited(ctx, "the kernel", func(ctx context.Context) error {
		return p.within(ctx, nil, func(sb sandbox.Sandbox) error {
			if err := p.run(ctx, sb, "/proc/version could not be read in a sandbox", "", version, "/bin/cat", "/proc/version"); err != nil {
				return err
			}
			// A kernel may hide its log from ordinary users, and a root file system
			// may have no dmesg: then the log counts as empty.
			err := p.run(ctx, sb, "the kernel log could not be read in a sandbox", "", kernelLog, "dmesg")
			if err != nil && ctx.Err() == nil && !errors.Is(err, sandbox.ErrLost) {
				p.log.Debug("no kernel log in the sandbox", "sandbox", sb.ID(), "error", err)
				return nil
			}
			return err
		})
	})
	if err != nil {
		return Kernel{}, err
	}
	k := Kernel{ProcVersion: version.text()}
	k.IsGVisor = looksLikeGVisor(k.ProcVersion, kernelLog.text())
	return k, nil
}

// looksLikeGVisor recognizes gVisor by its version string ("Linux version
// 4.19.0-gvisor …", its pkg/sentry/kernel/version.go) or by the first line of its
// kernel log ("Starting gVisor...", its pkg/sentry/kernel/syslog.go). Older
// releases have only the latter.
func looksLikeGVisor(procVersion, kernelLog string) bool {
	return strings.Contains(procVersion, "gvisor") || strings.Contains(kernelLog, "Starting gVisor")
}

// VolumeResult is the result of Volume.
type VolumeResult struct {
	TestID  string // UUID of this check
	Written string
	Read    string
	Match   bool // Read is exactly Written
}

// testFile is the name of the file that Volume writes.
const testFile = "test.txt"

// Volume writes a file in the data volume in one sandbox, ends that sandbox, and
// reads the file in a second one. A different text is not an error. The file is
// removed at the end.
func (p *Prober) Volume(ctx context.Context) (result VolumeResult, err error) {
	err = p.limited(ctx, "the volume", func(ctx context.Context) (err error) {
		result, err = p.volume(ctx)
		return err
	})
	return result, err
}

func (p *Prober) volume(ctx context.Context) (_ VolumeResult, err error) {
	id := uuid.NewString()
	dir, remove, err := p.cfg.Scratch(id)
	if err != nil {
		return VolumeResult{}, failed("the data volume cannot be written", err)
	}
	defer func() {
		if rerr := remove(); rerr != nil {
			err = errors.Join(err, failed("the test file could not be removed from the data volume", rerr))
		}
	}()
	// This is safe: no program in a sandbox has seen the new directory yet.
	if err := os.Lchown(dir, int(p.cfg.UID), int(p.cfg.GID)); err != nil {
		return VolumeResult{}, failed("the data volume cannot be written", err)
	}
	mount := sandbox.Mount{Source: dir, Target: path.Join(rootfs.DataDir, "probe", id), Writable: true}
	file, text := path.Join(mount.Target, testFile), "written by one sandbox, to be read by another: "+uuid.NewString()
	err = p.within(ctx, []sandbox.Mount{mount}, func(sb sandbox.Sandbox) error {
		return p.run(ctx, sb, "a sandbox could not write to the data volume", text, nil, "/bin/sh", "-c", `cat > "$1"`, "sh", file)
	})
	if err != nil {
		return VolumeResult{}, err
	}
	mount.Writable = false
	out := &output{limit: maxOutput}
	err = p.within(ctx, []sandbox.Mount{mount}, func(sb sandbox.Sandbox) error {
		return p.run(ctx, sb, "a second sandbox could not read the data volume", "", out, "/bin/cat", file)
	})
	if err != nil {
		return VolumeResult{}, err
	}
	got := out.buf.String()
	return VolumeResult{TestID: id, Written: text, Read: strings.ToValidUTF8(got, "\uFFFD"), Match: got == text}, nil
}

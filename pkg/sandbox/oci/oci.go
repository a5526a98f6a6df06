// Package oci writes the bundle that OCI engines read for a sandbox: a
// directory with a config.json. All engines get the same configuration, so that
// tests with one of them hold for the others. An engine whose guests share
// the host's kernel gets additional restrictions: see Kernel.
package oci

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// InitPath is the path of the supervisor program inside a sandbox. Root file
// systems contain an empty file there as its mount point.
const InitPath = "/.dreamcore/" + InitRole

// InitRole is the name in argv[0] that makes the program act as the supervisor.
const InitRole = "dreamcore-init"

// supervisorCaps are the capabilities that PID 1 needs to start programs as
// another user, to hand them their standard streams and to kill them. Programs
// run as ordinary users have none.
var supervisorCaps = []string{"CAP_CHOWN", "CAP_KILL", "CAP_SETGID", "CAP_SETUID"}

// Mode is how a sandbox runs on the host: *Kernel or Rootless.
type Mode interface {
	apply(c *specs.Spec, s sandbox.Spec) error
}

// WriteBundle writes dir/config.json for a sandbox whose PID 1 is the host
// program exe. mode adds what the engine needs beyond the common configuration;
// it may be nil.
func WriteBundle(dir, exe string, s sandbox.Spec, mode Mode) error {
	if err := s.Validate(); err != nil {
		return fmt.Errorf("sandbox specification: %w", err)
	}
	c, err := config(exe, s)
	if err != nil {
		return err
	}
	if mode != nil {
		if err := mode.apply(c, s); err != nil {
			return fmt.Errorf("sandbox specification: %w", err)
		}
	}
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600)
}

func config(exe string, s sandbox.Spec) (*specs.Spec, error) {
	limits := s.Limits.WithDefaults()
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
	}
	host, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	for _, m := range slices.Concat(s.Root.Mounts, []sandbox.Mount{{Source: exe, Target: InitPath}}, s.Mounts) {
		own := mount(m)
		in := submounts(m, &own, host)
		mounts = append(append(mounts, own), in...)
	}
	mounts = lastOfEach(mounts)
	return &specs.Spec{
		Version: "1.0.2",
		Process: &specs.Process{
			Args: append([]string{InitPath}, sandbox.Setup{Relay: s.Relay}.Args()...),
			Env:  []string{"PATH=/usr/local/bin:/usr/bin:/bin", "GOMAXPROCS=2"},
			Cwd:  "/",
			Capabilities: &specs.LinuxCapabilities{
				Bounding: supervisorCaps, Effective: supervisorCaps, Permitted: supervisorCaps,
			},
			NoNewPrivileges: true,
			Rlimits: []specs.POSIXRlimit{
				{Type: "RLIMIT_NOFILE", Hard: limits.OpenFiles, Soft: limits.OpenFiles},
				{Type: "RLIMIT_CORE", Hard: 0, Soft: 0},
				{Type: "RLIMIT_NPROC", Hard: uint64(limits.Processes), Soft: uint64(limits.Processes)},
			},
		},
		Root:     &specs.Root{Path: s.Root.Path, Readonly: true},
		Hostname: "sandbox",
		Mounts:   mounts,
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
				{Type: specs.MountNamespace}, {Type: specs.NetworkNamespace},
			},
			MaskedPaths:   []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}, nil
}

// lastOfEach leaves out mounts that a later one at the same path would hide.
// gVisor sorts mounts by their path, and two with the same path in any order.
func lastOfEach(mounts []specs.Mount) []specs.Mount {
	last := map[string]int{}
	for i, m := range mounts {
		last[m.Destination] = i
	}
	kept := mounts[:0:0]
	for i, m := range mounts {
		if last[m.Destination] == i {
			kept = append(kept, m)
		}
	}
	return kept
}

func mount(m sandbox.Mount) specs.Mount {
	if m.Source == "" {
		size, mode := m.Size, m.Mode
		if size == 0 {
			size = sandbox.DefaultTmpfsBytes
		}
		if mode == 0 {
			mode = 0o755
		}
		options := []string{
			"nosuid", "nodev", "mode=" + strconv.FormatUint(uint64(mode), 8), "size=" + strconv.FormatInt(size, 10),
		}
		if !m.Writable { // only holds mount points
			options = append(options, "noexec")
		}
		return specs.Mount{Destination: m.Target, Type: "tmpfs", Source: "tmpfs", Options: options}
	}
	access := "ro"
	if m.Writable {
		access = "rw"
	}
	return specs.Mount{Destination: m.Target, Type: "bind", Source: m.Source, Options: []string{"bind", access, "nosuid", "nodev"}}
}

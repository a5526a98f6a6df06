package sandbox

import (
	"fmt"
	"math"
	"path"
	"slices"
	"strings"
)

// Spec describes a sandbox.
type Spec struct {
	Root   Root
	Mounts []Mount // in order; a later one may lie inside an earlier one
	// Late are paths inside where an empty directory is mounted before Mounts. Binder
	// mounts below them later. Only the sandboxes of an engine with Binder may have any.
	Late   []string
	Limits Limits
	Relay  Relay
}

// Root is the file system a sandbox starts from, always read-only.
type Root struct {
	Path   string  // small directory on the host with every mount point; engines copy it
	Mounts []Mount // mounted into it before Spec.Mounts
}

// Mount makes a path of the host, or an empty file system in memory, visible
// inside.
type Mount struct {
	Source   string // absolute path of the host; "" means a tmpfs
	Target   string // absolute path inside; must exist in the root
	Writable bool
	Size     int64  // bytes, tmpfs only; 0 means 64 MiB
	Mode     uint32 // permission bits, tmpfs only; 0 means 0755
}

// Limits bounds the resources of a sandbox. Zero values mean the defaults, never
// "no limit".
type Limits struct {
	MemoryBytes int64   // default 2048 MiB
	CPUs        float64 // default: those of the host
	Processes   int     // inside; default 512
	OpenFiles   uint64  // per process; default 4096
}

// Defaults of Limits.
const (
	DefaultMemoryBytes = 2048 << 20
	DefaultProcesses   = 512
	DefaultOpenFiles   = 4096
	DefaultTmpfsBytes  = 64 << 20
)

// WithDefaults replaces zero values by the defaults.
func (l Limits) WithDefaults() Limits {
	if l.MemoryBytes == 0 {
		l.MemoryBytes = DefaultMemoryBytes
	}
	if l.Processes == 0 {
		l.Processes = DefaultProcesses
	}
	if l.OpenFiles == 0 {
		l.OpenFiles = DefaultOpenFiles
	}
	return l
}

// Validate returns an error for a Spec that no engine can run.
func (s Spec) Validate() error {
	if !path.IsAbs(s.Root.Path) {
		return fmt.Errorf("root %q is not an absolute path", s.Root.Path)
	}
	mounts := slices.Concat(s.Root.Mounts, s.Mounts)
	for _, target := range s.Late {
		mounts = append(mounts, Mount{Target: target})
	}
	for _, m := range mounts {
		if err := m.Validate(); err != nil {
			return err
		}
	}
	if err := s.Relay.validate(); err != nil {
		return err
	}
	l := s.Limits
	if l.MemoryBytes < 0 || l.Processes < 0 || !(l.CPUs >= 0) || math.IsInf(l.CPUs, 0) { // NaN compares false
		return fmt.Errorf("limits must be numbers and not negative: %+v", l)
	}
	return nil
}

// Validate returns an error for a Mount that no engine can make.
func (m Mount) Validate() error {
	switch {
	case m.Source != "" && !path.IsAbs(m.Source):
		return fmt.Errorf("mount source %q is not an absolute path", m.Source)
	case !path.IsAbs(m.Target) || path.Clean(m.Target) != m.Target || m.Target == "/":
		return fmt.Errorf("mount target %q is not a clean absolute path", m.Target)
	case strings.ContainsRune(m.Source+m.Target, 0):
		return fmt.Errorf("mount of %q has a NUL byte", m.Target)
	case m.Source != "" && (m.Size != 0 || m.Mode != 0):
		return fmt.Errorf("mount of %q: size and mode are for tmpfs", m.Target)
	case m.Size < 0 || m.Mode > 0o7777:
		return fmt.Errorf("mount of %q: size %d or mode %o is out of range", m.Target, m.Size, m.Mode)
	}
	return nil
}

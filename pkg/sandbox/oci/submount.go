package oci

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// submounts returns the mounts inside a read-only host directory, and prepares
// own, the sandbox's mount of that directory, for them. Examples are a disk at
// /usr/local, or the empty directory that systemd mounts over /usr/lib/modules
// for a hardened service.
//
// The submounts must be included: a mount namespace of a user namespace inherits
// mounts as one unit, and the kernel refuses to expose a directory without the
// mounts that cover parts of it. A read-only bind mount, however, makes only the
// directory itself read-only, so each writable submount is mounted again,
// read-only, over itself. host lists the mounts of the host.
func submounts(m sandbox.Mount, own *specs.Mount, host []*mountinfo.Info) []specs.Mount {
	if m.Source == "" || m.Writable {
		return nil
	}
	source, err := filepath.EvalSymlinks(m.Source)
	if err != nil {
		return nil // the engine reports a missing directory
	}
	var points []*mountinfo.Info
	for _, p := range host {
		if strings.HasPrefix(p.Mountpoint, source+"/") {
			points = append(points, p)
		}
	}
	if len(points) == 0 {
		return nil
	}
	own.Options[0] = "rbind"
	return remounts(m, source, points)
}

// remounts returns read-only mounts of points, which lie in source, over
// themselves. Of several mounts at one path only the last one is visible.
func remounts(m sandbox.Mount, source string, points []*mountinfo.Info) []specs.Mount {
	top := map[string]*mountinfo.Info{}
	for _, p := range points {
		top[p.Mountpoint] = p
	}
	var list []specs.Mount
	for _, name := range slices.Sorted(maps.Keys(top)) { // parents before children
		if readOnly(top[name]) || !mountable(name) {
			continue
		}
		over := mount(sandbox.Mount{Source: name, Target: filepath.Join(m.Target, strings.TrimPrefix(name, source))})
		over.Options[0] = "rbind"
		list = append(list, over)
	}
	return list
}

// readOnly reports whether the mount itself is read-only, which a user
// namespace cannot revert.
func readOnly(p *mountinfo.Info) bool {
	return p.Options == "ro" || strings.HasPrefix(p.Options, "ro,")
}

// mountable reports whether name is a file or directory that is not hidden
// below another mount.
func mountable(name string) bool {
	fi, err := os.Lstat(name)
	return err == nil && fi.Mode().Type()&^fs.ModeDir == 0
}

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

// below are the mounts that a read-only directory of the host has in it, with
// the sandbox's mount of the directory made ready for them: a disk at
// /usr/local, or the empty directory that systemd puts over /usr/lib/modules
// for a hardened service.
//
// They have to come along. A mount namespace of a user namespace takes what is
// mounted for a unit, and the kernel refuses to show a directory without what
// covers a part of it. But only the directory itself becomes read-only then, so
// each mount in it that could be written to is mounted once more, read-only,
// over itself. host are the mounts of this machine.
func below(m sandbox.Mount, own *specs.Mount, host []*mountinfo.Info) []specs.Mount {
	if m.Source == "" || m.Writable {
		return nil
	}
	source, err := filepath.EvalSymlinks(m.Source)
	if err != nil {
		return nil // the engine reports what is not there
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
	return again(m, source, points)
}

// again are the read-only mounts of points, which lie in source, over
// themselves. Of several at one place the last one counts.
func again(m sandbox.Mount, source string, points []*mountinfo.Info) []specs.Mount {
	top := map[string]*mountinfo.Info{}
	for _, p := range points {
		top[p.Mountpoint] = p
	}
	var list []specs.Mount
	for _, name := range slices.Sorted(maps.Keys(top)) { // what is around comes first
		if readOnly(top[name]) || !mountable(name) {
			continue
		}
		over := mount(sandbox.Mount{Source: name, Target: filepath.Join(m.Target, strings.TrimPrefix(name, source))})
		over.Options[0] = "rbind"
		list = append(list, over)
	}
	return list
}

// readOnly is the mount's own option, which a user namespace cannot take back.
func readOnly(p *mountinfo.Info) bool {
	return p.Options == "ro" || strings.HasPrefix(p.Options, "ro,")
}

// mountable leaves out what nobody gets at: what lies below another mount.
func mountable(name string) bool {
	fi, err := os.Lstat(name)
	return err == nil && fi.Mode().Type()&^fs.ModeDir == 0
}

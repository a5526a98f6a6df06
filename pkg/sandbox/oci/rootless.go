package oci

import (
	"errors"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// Rootless configures a sandbox that is started without root, by an engine with
// a kernel of its own. Its user namespace maps only this process's user and
// group, because the kernel requires privileges to map more. They have the same
// ids inside, so project files belong to this process's user on the host. The
// engine itself must run as the user that PID 1 starts as, so PID 1 starts as
// this user and then becomes root for the kernel inside, which has no
// privileges on the host.
type Rootless struct {
	UID, GID uint32 // effective ids of this process
}

// apply implements Mode.
func (r Rootless) apply(c *specs.Spec, _ sandbox.Spec) error {
	if r.UID == 0 {
		return errors.New("a rootless sandbox cannot run as root")
	}
	c.Linux.Namespaces = append(c.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	c.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: r.UID, HostID: r.UID, Size: 1}}
	c.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: r.GID, HostID: r.GID, Size: 1}}
	// A program that does not start as root has only its ambient capabilities.
	c.Process.Capabilities.Inheritable, c.Process.Capabilities.Ambient = supervisorCaps, supervisorCaps
	c.Process.User = specs.User{UID: r.UID, GID: r.GID}
	return nil
}

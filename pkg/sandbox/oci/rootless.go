package oci

import (
	"errors"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Rootless is what a sandbox needs that is started without root, by an engine
// with a kernel of its own. A user namespace has one user and one group then,
// ours, because the kernel lets nobody map more without privileges. They are
// the same inside, so that files of projects are ours on the host. The engine
// starts as the user that PID 1 starts as, so that must be this one; PID 1 then
// becomes root for the kernel inside, which is nobody on the host.
type Rootless struct {
	UID, GID uint32 // of this process
}

// fit implements Way.
func (r Rootless) fit(c *specs.Spec) error {
	if r.UID == 0 {
		return errors.New("root needs no rootless sandbox, and the agent refuses to be root")
	}
	c.Linux.Namespaces = append(c.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	c.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: r.UID, HostID: r.UID, Size: 1}}
	c.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: r.GID, HostID: r.GID, Size: 1}}
	// A program that does not start as root has only what is ambient.
	c.Process.Capabilities.Inheritable, c.Process.Capabilities.Ambient = supervisorCaps, supervisorCaps
	c.Process.User = specs.User{UID: r.UID, GID: r.GID}
	return nil
}

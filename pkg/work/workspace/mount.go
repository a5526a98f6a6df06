package workspace

import (
	"path"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/rootfs"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

// ProjectDir returns the directory of a project inside the user's workspace.
func ProjectDir(user dreamcore.UserID, project dreamcore.ProjectID) string {
	return path.Join(projectsDir(user), string(project))
}

// projectsDir returns the directory of all projects inside the user's workspace.
func projectsDir(user dreamcore.UserID) string {
	return path.Join(rootfs.DataDir, "users", string(user), "projects")
}

// mounts returns what the sandbox sees of the host. Only this function turns
// volumes into paths of the host. The user must be open.
func (w *Workspace) mounts() []sandbox.Mount {
	mounts := []sandbox.Mount{
		{Source: w.user.ProjectsPath(), Target: projectsDir(w.owner), Writable: true},
		{Source: w.user.HomesPath(), Target: w.template.Home, Writable: true},
	}
	if dir, err := w.parts.Volumes.Path(volume.Global); err == nil { // it may not exist
		mounts = append(mounts, sandbox.Mount{Source: dir, Target: rootfs.GlobalDir})
	}
	if w.template.AgentFile != "" {
		mounts = append(mounts, sandbox.Mount{Source: w.template.AgentFile, Target: w.template.AgentPath})
	}
	if w.template.CheckFile != "" {
		mounts = append(mounts, sandbox.Mount{Source: w.template.CheckFile, Target: rootfs.CheckPath})
	}
	// The directory, not the socket: the gateway may replace the socket file.
	return append(mounts, sandbox.Mount{Source: w.dir, Target: w.socketDir()})
}

package workspace

import (
	"path"
	"path/filepath"

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

// homesVolume is the name by which mounts refer to the homes of the user's
// projects. Depending on the bounds of users, they are in the data volume or in
// a directory of the host.
const homesVolume = "homes"

// volumeMount makes a directory of a volume visible inside.
type volumeMount struct {
	volume, path string
	target       string
	writable     bool
}

// mounts returns what the sandbox sees of the host. Only this function turns
// volumes into paths of the host. The user must be open.
func (w *Workspace) mounts() []sandbox.Mount {
	roots := map[string]string{
		volume.Data: filepath.Dir(w.user.ProjectsPath()), // the user's own directory in it
		homesVolume: w.user.HomesPath(),
	}
	if dir, err := w.parts.Volumes.Path(volume.Global); err == nil {
		roots[volume.Global] = dir
	}
	var mounts []sandbox.Mount
	for _, m := range []volumeMount{
		{volume: volume.Data, path: "projects", target: projectsDir(w.owner), writable: true},
		{volume: homesVolume, target: w.template.Home, writable: true},
		{volume: volume.Global, target: rootfs.GlobalDir},
	} {
		if root, ok := roots[m.volume]; ok {
			mounts = append(mounts, sandbox.Mount{Source: filepath.Join(root, m.path), Target: m.target, Writable: m.writable})
		}
	}
	if w.template.AgentFile != "" {
		mounts = append(mounts, sandbox.Mount{Source: w.template.AgentFile, Target: w.template.AgentPath})
	}
	// The directory, not the socket: the gateway may replace the socket file.
	return append(mounts, sandbox.Mount{Source: w.dir, Target: w.socketDir()})
}

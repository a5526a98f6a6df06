package workspace

import (
	"context"
	"errors"
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
	return path.Join(usersDir(), string(user), "projects")
}

// usersDir returns the directory of all users inside.
func usersDir() string { return path.Join(rootfs.DataDir, "users") }

// mounts returns what the sandbox sees of the host, except for the directories of its
// user. Only this function and userMounts turn volumes into paths of the host.
func (w *Workspace) mounts() []sandbox.Mount {
	var mounts []sandbox.Mount
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

// userMounts returns the directories of a user, and where the sandbox sees them.
func (w *Workspace) userMounts(user dreamcore.UserID, dirs *volume.User) []sandbox.Mount {
	return []sandbox.Mount{
		{Source: dirs.ProjectsPath(), Target: projectsDir(user), Writable: true},
		{Source: dirs.HomesPath(), Target: w.template.Home, Writable: true},
	}
}

// LateHome returns the HOME inside of an agent that waits in a standby sandbox. It is
// empty, and nobody can write to it, until MountHome.
func (w *Workspace) LateHome() string { return path.Join(path.Dir(w.template.Home), "project") }

// MountHome mounts the home of a project of the owner at LateHome, for as long as the
// sandbox exists. The workspace must have been a standby sandbox in which no program but
// the waiting agent has run, and the home must exist. After an error the sandbox is
// closed.
func (w *Workspace) MountHome(ctx context.Context, project dreamcore.ProjectID) error {
	binder, ok := w.Sandbox.(sandbox.Binder)
	if !ok || !w.Ahead() {
		return errNoBinder
	}
	err := binder.Bind(ctx, []sandbox.Mount{{Source: filepath.Join(w.user.HomesPath(), string(project)), Target: w.LateHome(), Writable: true}})
	if err == nil {
		return nil
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
	defer cancel()
	_ = w.Sandbox.Close(closing) // its owner closes it again, and gets the error
	return err
}

var errNoBinder = errors.New("the sandbox mounts nothing after its start")

// late returns the directories inside, below which those of a user are mounted when
// the sandbox gets one.
func (w *Workspace) late() []string { return []string{usersDir(), path.Dir(w.template.Home)} }

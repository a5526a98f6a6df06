package job

import (
	"os"
	"path/filepath"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

// versionName returns the name of the version that the job makes: the one in the
// request, else the result of the operator's template, else the player's own
// words.
func (j *job) versionName() string {
	if name := history.Subject(j.request.CommitMessage); name != "" {
		return name
	}
	return history.Name(j.settings.CommitMessage, history.About{
		Prompt: j.request.Prompt, User: string(j.request.User), Project: string(j.request.Project), Job: j.id,
	})
}

// skillsDir holds the operator's skills in the global volume.
const skillsDir = dreamcore.ConfigDir

// showSkills makes the operator's skills visible in the project until hide is
// called, which must be after the last process of the job has ended.
func (j *job) showSkills(project *volume.Project) (hide func()) {
	remove, err := j.service.parts.Volumes.ShowSkills(project)
	if err != nil {
		j.log.Warn("the skills are not visible in the project", "error", err)
	}
	return func() {
		if err := remove(); err != nil {
			j.log.Warn("hide the skills in the project", "error", err)
		}
	}
}

// skillsPath returns the directory of the skills on the host, or "".
func (s *Service) skillsPath() string {
	dir, err := s.parts.Volumes.Path(volume.Global)
	if err != nil {
		return ""
	}
	return filepath.Join(dir, skillsDir)
}

// skills returns the names of the operator's skills, sorted.
func (s *Service) skills() []string {
	dir := s.skillsPath()
	if dir == "" {
		return nil
	}
	root := filepath.Join(dir, "skills")
	entries, _ := os.ReadDir(root) // sorted; empty if there is no such directory
	var names []string
	for _, e := range entries {
		if fi, err := os.Lstat(filepath.Join(root, e.Name(), "SKILL.md")); err == nil && fi.Mode().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names
}

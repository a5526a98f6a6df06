package dreamcore

// GlobalDir is the mount point of the global volume in a sandbox, read-only.
const GlobalDir = "/global"

// While a job runs, SkillsLink is a symbolic link in its project to the skills
// of the global volume: prompts tell the agent to read them there.
const (
	ConfigDir    = ".claude" // the agent's, in a project and in the global volume
	SkillsLink   = ConfigDir + "/skills"
	SkillsTarget = GlobalDir + "/" + SkillsLink
)

// IsSkillsLink reports whether a symbolic link is the one that a job creates,
// which is not part of the project. The job removes it, but it remains if the
// service is killed. path is relative to the project, with slashes.
func IsSkillsLink(path, target string) bool {
	return path == SkillsLink && target == SkillsTarget
}

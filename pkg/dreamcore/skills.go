package dreamcore

// GlobalDir is where a sandbox has the global volume, read-only.
const GlobalDir = "/global"

// While a job runs, SkillsLink is a symbolic link in its project, which leads
// to the skills of the global volume: prompts tell the agent to read them
// there.
const (
	ConfigDir    = ".claude" // of the agent, in a project and in the global volume
	SkillsLink   = ConfigDir + "/skills"
	SkillsTarget = GlobalDir + "/" + SkillsLink
)

// IsSkillsLink reports whether a symbolic link is the one that a job makes: it
// is no part of the project. A job removes it, but a service that is killed
// leaves it. path is relative to the project, with slashes.
func IsSkillsLink(path, target string) bool {
	return path == SkillsLink && target == SkillsTarget
}

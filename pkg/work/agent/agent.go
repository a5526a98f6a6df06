// Package agent runs the Claude CLI in a sandbox: its command line, its
// environment, its output as events, and whether it succeeded.
//
// The sandbox is the security border. The CLI uses its tools without asking for
// permission, because the sandbox prevents what it must not do: the only network
// is the gateway's socket, the only key the job's token, and the only files are
// the project's.
//
// The files: agent.go and environment.go are the command, start.go starts it and run.go
// runs it, origin.go identifies what a start depends on, output.go turns the output into
// events, home.go repairs its HOME, install.go finds and installs the program.
package agent

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// DefaultTools are the tools that the agent may use by default.
var DefaultTools = []string{"Read", "Write", "Edit", "Glob", "Grep", "Bash"}

// skillTool is the tool by which the agent reads a skill.
const skillTool = "Skill"

// Config holds the settings of a run.
type Config struct {
	Path   string // the CLI inside the sandbox
	Home   string // HOME inside
	Socket string // the gateway's socket inside
	UID    uint32 // user inside; not root, which the CLI refuses
	GID    uint32
	Tools  []string // nil means DefaultTools
	Model  string   // "" leaves the choice to the CLI
	Turns  int      // maximum number of turns of the model; 0 means unlimited
	Env    []string // "KEY=value", in addition to the variables that the CLI needs
	Given  []string // the same from the operator; Owns must be false for each name
	Skills string   // directory inside whose skills/NAME/SKILL.md the agent may use; may be ""
	Hosts  []string // that programs may reach; empty means no network
}

// Session is the conversation that a run belongs to.
type Session struct {
	ID     string // a UUID
	Resume bool   // an earlier run has begun it, in the same directory and HOME
}

// firstLine precedes every prompt. The CLI would take a prompt that starts with a
// slash as one of its commands, and "succeed" without asking the model anything.
const firstLine = "Work in the current directory. The user's request:\n\n"

// Prompt returns the text that the CLI gets for a prompt of the user.
func Prompt(prompt string) string { return firstLine + prompt }

// Command returns the run of the CLI in dir with token as its only credential.
func (c Config) Command(dir, token string, s Session) sandbox.Command {
	return sandbox.Command{Args: c.args(s), Env: append(c.env(token), c.Given...), Dir: dir, UID: c.UID, GID: c.GID}
}

func (c Config) args(s Session) []string {
	tools := c.Tools
	if tools == nil {
		tools = DefaultTools
	}
	if c.Skills != "" && !slices.Contains(tools, skillTool) {
		tools = append(slices.Clone(tools), skillTool)
	}
	args := []string{
		c.Path, "-p",
		"--input-format", "stream-json", // starts without the prompt, which may come later
		"--output-format", "stream-json", "--verbose", // -p needs --verbose for it
		"--dangerously-skip-permissions",
		"--tools", strings.Join(tools, ","),
		// The files of the project are hostile: its settings could run hooks, and
		// its .mcp.json could start servers.
		"--setting-sources", "", "--strict-mcp-config",
	}
	if c.Skills != "" {
		// Without setting sources, the CLI looks for skills in plugins only. A
		// directory with a folder "skills" is a plugin.
		args = append(args, "--plugin-dir", c.Skills)
	}
	if c.Model != "" {
		args = append(args, "--model", c.Model)
	}
	args = append(args, "--append-system-prompt", c.network())
	if c.Turns > 0 {
		args = append(args, "--max-turns", strconv.Itoa(c.Turns))
	}
	if s.Resume {
		return append(args, "--resume", s.ID)
	}
	return append(args, "--session-id", s.ID)
}

// shownHosts bounds the number of hosts that the system prompt names.
const shownHosts = 50

// network returns the part of the system prompt about the hosts that commands can
// reach. Without it, the agent tries to install packages and wastes the time of
// the run.
func (c Config) network() string {
	if len(c.Hosts) == 0 {
		return "The commands that you run here have no network: downloads, npm, npx, pip and git clone fail. Work with the programs and files that are here."
	}
	hosts := strings.Join(c.Hosts[:min(len(c.Hosts), shownHosts)], ", ")
	if more := len(c.Hosts) - shownHosts; more > 0 {
		hosts += " and " + strconv.Itoa(more) + " more"
	}
	return "The commands that you run here reach these hosts of the network and no others: " + hosts + "."
}

// offline makes programs that would wait for a network fail at once: by default
// npm retries for more than a minute.
var offline = []string{
	"npm_config_offline=true",
	"npm_config_fetch_retries=0",
	"npm_config_audit=false",
	"npm_config_fund=false",
	"npm_config_update_notifier=false",
	"YARN_ENABLE_NETWORK=0",
	"PIP_NO_INDEX=1",
	"PIP_RETRIES=0",
	"PIP_DISABLE_PIP_VERSION_CHECK=1",
	"UV_OFFLINE=1",
	"CARGO_NET_OFFLINE=true",
	"GOPROXY=off",
	"GIT_TERMINAL_PROMPT=0",
}

// env returns the complete environment of the CLI, without Given. Each entry was
// tested with the CLI.
func (c Config) env(token string) []string {
	env := []string{
		"PATH=/usr/local/bin:/usr/bin:/bin",
		"HOME=" + c.Home,
		"USER=agent",
		"SHELL=/bin/bash",
		"LANG=C.UTF-8",
		"TMPDIR=/tmp",
		// If the socket is set, the address is never resolved; it must be http.
		"ANTHROPIC_BASE_URL=http://model.invalid",
		"ANTHROPIC_UNIX_SOCKET=" + c.Socket,
		"ANTHROPIC_API_KEY=" + token,
		"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1",
		"DISABLE_AUTOUPDATER=1",
		"CLAUDE_CODE_MAX_RETRIES=3",
		"API_TIMEOUT_MS=300000",
		// The gateway ends a stalled stream; a retry without streaming would only
		// double the wait.
		"CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK=1",
		"CLAUDE_CODE_DISABLE_1M_CONTEXT=1",
		"CLAUDE_CODE_DISABLE_BUNDLED_SKILLS=1",
		"CLAUDE_CODE_DISABLE_AUTO_MEMORY=1",
		// Background tasks are killed at the end of the run, so the agent must not
		// wait for one to finish.
		"CLAUDE_CODE_DISABLE_BACKGROUND_TASKS=1",
	}
	if len(c.Hosts) == 0 {
		for _, setting := range offline {
			name, _, _ := strings.Cut(setting, "=")
			if !slices.ContainsFunc(c.Env, func(e string) bool { return strings.HasPrefix(e, name+"=") }) {
				env = append(env, setting)
			}
		}
	}
	return append(env, c.Env...)
}

// SessionFile returns the file in which the CLI keeps a conversation, relative to
// HOME. Its directory is named after the working directory, with a dash for every
// UTF-16 unit that is not an ASCII letter or digit. For directories of more than
// 200 units the CLI uses another name, which is unknown here; a sandbox has none
// that long.
func SessionFile(dir, id string) string {
	var name strings.Builder
	for _, u := range utf16.Encode([]rune(dir)) {
		if u >= 'a' && u <= 'z' || u >= 'A' && u <= 'Z' || u >= '0' && u <= '9' {
			name.WriteByte(byte(u))
		} else {
			name.WriteByte('-')
		}
	}
	return ".claude/projects/" + name.String() + "/" + id + ".jsonl"
}

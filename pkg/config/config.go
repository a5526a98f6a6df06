// Package config is where settings come from: defaults, then a file, then the
// environment, then flags; the later wins. It is the only package that reads
// the environment.
package config

import (
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/v2"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/upstream"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/egress"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/store/image"
	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
)

// Config is every setting of the service and of commands that work on this
// machine. The key of a setting in the file is its koanf tag; in the
// environment it is DREAMCORE_ and the key in upper case.
type Config struct {
	State  string `koanf:"state"`  // state directory, absolute
	Listen string `koanf:"listen"` // address of the service, host:port

	IdentityFile string `koanf:"identity_file"` // that opens the sealed secrets; "" is a credential of systemd, else secrets/identity

	Runtime string `koanf:"runtime"` // engine of sandboxes: gvisor or runc
	Rootfs  string `koanf:"rootfs"`  // root file system for sandboxes; "" is the host's programs
	Image   string `koanf:"image"`   // the same from an image, as pkg/store/image refers to it, with absolute paths; "" is none
	UID     int    `koanf:"sandbox_uid"`
	GID     int    `koanf:"sandbox_gid"`

	MemoryMiB int     `koanf:"memory_mib"` // of one sandbox
	CPUs      float64 `koanf:"cpus"`       // of one sandbox; 0 is all
	Processes int     `koanf:"processes"`  // in one sandbox

	DiskMiB        int `koanf:"disk_mib"`          // that the projects and homes of one user may take; 0 is no bound
	MinFreeDiskMiB int `koanf:"min_free_disk_mib"` // of the disk; no job begins that could take them

	ProjectMiB   int `koanf:"project_mib"`   // that one project may take; 0 is no bound but the user's
	ProjectFiles int `koanf:"project_files"` // in one project; 0 is no bound but the user's

	AllowUnlimited bool `koanf:"allow_unlimited"` // serve without root, which cannot limit sandboxes

	MaxSandboxes  int           `koanf:"max_sandboxes"`   // at once on this machine, warm ones too
	SandboxIdle   time.Duration `koanf:"sandbox_idle"`    // one that is unused so long is ended
	SandboxMaxAge time.Duration `koanf:"sandbox_max_age"` // an older one is ended
	Spares        int           `koanf:"spare_sandboxes"` // started ahead, for checks
	MinFreeMiB    int           `koanf:"min_free_mib"`    // of memory; below it unused sandboxes are ended

	SandboxEnv Variables `koanf:"sandbox_env"` // variables for the programs in sandboxes, by name

	Tools    []string      `koanf:"tools"`        // of the agent
	Model    string        `koanf:"model"`        // "" is the agent's own choice
	MaxTurns int           `koanf:"max_turns"`    // 0 is no bound
	Timeout  time.Duration `koanf:"timeout"`      // of one run of the agent
	Lines    int           `koanf:"output_lines"` // forwarded of one run

	MaxGenerations  int           `koanf:"max_generations"`      // at once on this machine
	MaxWaiting      int           `koanf:"max_waiting"`          // in the queue
	MaxPerUser      int           `koanf:"max_waiting_per_user"` // behind the user's first
	OnDisconnect    string        `koanf:"on_disconnect"`        // of a job's last client: OnDisconnectCancel or OnDisconnectContinue
	DisconnectGrace time.Duration `koanf:"disconnect_grace"`     // before a job that has lost its last client is cancelled
	Grace           time.Duration `koanf:"grace"`                // for running work when the service stops
	JournalDays     int           `koanf:"journal_days"`         // event logs are kept so long
	JobsMiB         int           `koanf:"jobs_mib"`             // that all event logs may take; 0 is no bound

	HistoryMiB     int `koanf:"history_mib"`      // that the versions of one project may take; 0 is no bound
	HistoryUserMiB int `koanf:"history_user_mib"` // the same of all projects of one user

	MemoryLimitMiB int `koanf:"memory_limit_mib"` // of the service itself; 0: from its cgroup or the machine

	Upstream  string           `koanf:"upstream"`  // base address of the model API
	Upstreams []upstream.Entry `koanf:"upstreams"` // instead of Upstream: tried in order

	ModelScript string        `koanf:"model_script"` // scripted model instead of the API: a file, or "demo"
	ServerTools bool          `koanf:"server_tools"` // whether the API may reach other machines for a sandbox
	ModelIdle   time.Duration `koanf:"model_idle"`   // silence after which a streamed answer is given up

	// What may be spent on the model; 0 is no bound. Days and months are those of UTC.
	BudgetJobUSD          float64  `koanf:"budget_job_usd"`
	BudgetJobTokens       int      `koanf:"budget_job_tokens"`
	BudgetUserDayUSD      float64  `koanf:"budget_user_day_usd"`
	BudgetUserDayTokens   int      `koanf:"budget_user_day_tokens"`
	BudgetUserMonthUSD    float64  `koanf:"budget_user_month_usd"`
	BudgetUserMonthTokens int      `koanf:"budget_user_month_tokens"`
	BudgetDayUSD          float64  `koanf:"budget_day_usd"`   // of the machine
	BudgetMonthUSD        float64  `koanf:"budget_month_usd"` // of the machine
	UserRequests          int      `koanf:"user_requests"`    // of one user for the model in a minute
	Prices                []string `koanf:"prices"`           // as usage.ParsePrice reads them
	UsageDays             int      `koanf:"usage_days"`       // the books of how many days are kept
	AuditMiB              int      `koanf:"audit_mib"`        // that the audit log may take

	PromptModels map[string]string `koanf:"prompt_models"` // models of prompt endpoints by alias
	MaxPrompts   int               `koanf:"max_prompts"`   // calls of prompt endpoints at once

	AllowHosts        []string `koanf:"allow_hosts"`         // that sandboxes reach: HOST[:PORT]
	AllowPrivateHosts []string `koanf:"allow_private_hosts"` // the same where they lead to private networks: HOST:PORT
	Inject            []string `koanf:"inject"`              // secrets for hosts: HOST[:PORT]=SECRET[/KEY]:HEADER[:SCHEME]
	EgressMiB         int      `koanf:"egress_mib"`          // that one job may send and receive by it

	PreviewDomain    string   `koanf:"preview_domain"`          // games are shown under names in it; "": see Domain; "off"
	PreviewListen    string   `koanf:"preview_listen"`          // address of previews, host:port; "" is that of the service
	PreviewHosts     []string `koanf:"preview_hosts"`           // that games may load from
	PreviewAncestors []string `koanf:"preview_frame_ancestors"` // whose pages may show games in frames

	CommitMessage string `koanf:"commit_message"` // template of the names of versions; "" is the player's words

	Language string `koanf:"language"` // of sentences for players: en, ja
	LogLevel string `koanf:"log_level"`
}

// DefaultUpstream is the vendor's address of the model API.
const DefaultUpstream = upstream.DefaultAddress

// Values of on_disconnect.
const (
	OnDisconnectCancel   = "cancel"
	OnDisconnectContinue = "continue"
)

// DefaultListen is where the service listens unless told otherwise.
const DefaultListen = "127.0.0.1:8080"

// volumeFiles is how many files of a project are listed and saved.
const volumeFiles = 100_000

func defaults(env map[string]string, root bool) map[string]any {
	return map[string]any{
		"state":                    defaultState(env, root),
		"listen":                   DefaultListen,
		"identity_file":            "",
		"runtime":                  "gvisor",
		"rootfs":                   "",
		"image":                    "",
		"sandbox_uid":              10000,
		"sandbox_gid":              10000,
		"memory_mib":               2048,
		"cpus":                     0.0,
		"processes":                512,
		"disk_mib":                 1024,
		"min_free_disk_mib":        512,
		"project_mib":              512,
		"project_files":            50_000,
		"allow_unlimited":          false,
		"max_sandboxes":            32,
		"sandbox_idle":             20 * time.Minute,
		"sandbox_max_age":          5 * time.Hour,
		"spare_sandboxes":          1,
		"min_free_mib":             512,
		"sandbox_env":              map[string]string{},
		"tools":                    []string{"Read", "Write", "Edit", "Glob", "Grep", "Bash"},
		"model":                    "",
		"max_turns":                0,
		"timeout":                  300 * time.Second,
		"output_lines":             1000,
		"max_generations":          4,
		"max_waiting":              64,
		"max_waiting_per_user":     3,
		"on_disconnect":            OnDisconnectCancel,
		"disconnect_grace":         10 * time.Second,
		"grace":                    30 * time.Second,
		"journal_days":             7,
		"jobs_mib":                 1024,
		"history_mib":              512,
		"history_user_mib":         1024,
		"memory_limit_mib":         0,
		"upstream":                 DefaultUpstream,
		"upstreams":                []upstream.Entry{},
		"server_tools":             false,
		"model_script":             "",
		"model_idle":               60 * time.Second,
		"budget_job_usd":           0.0,
		"budget_job_tokens":        0,
		"budget_user_day_usd":      0.0,
		"budget_user_day_tokens":   0,
		"budget_user_month_usd":    0.0,
		"budget_user_month_tokens": 0,
		"budget_day_usd":           0.0,
		"budget_month_usd":         0.0,
		"user_requests":            600,
		"prices":                   []string{},
		"usage_days":               usage.DefaultDays,
		"prompt_models":            promptModels(),
		"max_prompts":              64,
		"audit_mib":                512,
		"commit_message":           "",
		"language":                 "en",
		"log_level":                "info",
		"allow_hosts":              []string{},
		"allow_private_hosts":      []string{},
		"inject":                   []string{},
		"egress_mib":               1024,
		"preview_domain":           "",
		"preview_listen":           "",
		"preview_hosts":            []string{},
		"preview_frame_ancestors":  []string{},
	}
}

func defaultState(env map[string]string, root bool) string {
	if root {
		return "/var/lib/dreamcore"
	}
	if dir := env["XDG_STATE_HOME"]; filepath.IsAbs(dir) {
		return filepath.Join(dir, dreamcore.AppName)
	}
	return filepath.Join(env["HOME"], ".local/state", dreamcore.AppName)
}

// Sources are where Load looks.
type Sources struct {
	File    string         // "": config.yaml of the state directory, where there is one
	Environ []string       // as os.Environ gives it
	Flags   map[string]any // settings by key that were given as flags
}

// FileName is the name of the file in the state directory.
const FileName = "config.yaml"

// Load reads the settings. An error names every setting that is wrong, where
// it came from and what would be right.
func Load(src Sources) (Config, error) {
	env := environment(src.Environ)
	def := defaults(env, os.Geteuid() == 0)
	fromEnv, unknown := environmentSettings(env, def)
	flags := layer{values: src.Flags, source: func(string) string { return "in a flag" }}
	file, err := readFile(src.File, stateOf(def, fromEnv, flags))
	if err != nil {
		return Config{}, err
	}
	k := koanf.New(".")
	if err := k.Load(confmap.Provider(def, ""), nil); err != nil {
		return Config{}, err
	}
	faults := unknown
	for _, l := range []layer{file, fromEnv, flags} {
		values, wrong := l.typed()
		faults = append(faults, wrong...)
		if err := k.Load(confmap.Provider(values, ""), nil); err != nil {
			return Config{}, err
		}
	}
	if len(faults) > 0 {
		hint := "mend it there"
		if text := strings.Join(faults, ";"); strings.Contains(text, "unknown setting") {
			hint = "known settings: " + strings.Join(slices.Sorted(maps.Keys(def)), ", ")
		}
		return Config{}, invalid(nil, hint, "%s", strings.Join(faults, "; "))
	}
	var c Config
	err = k.UnmarshalWithConf("", &c, koanf.UnmarshalConf{DecoderConfig: &mapstructure.DecoderConfig{
		Result: &c, TagName: tag, ErrorUnused: true, ErrorUnset: true,
	}})
	if err != nil {
		return Config{}, err
	}
	return c, c.Validate()
}

// stateOf is the state directory, in which the file lies unless it is named.
func stateOf(def map[string]any, layers ...layer) string {
	state := def["state"].(string)
	for _, l := range layers {
		if s, ok := l.values["state"].(string); ok && s != "" {
			state = s
		}
	}
	return state
}

// Validate returns every fault at once.
func (c Config) Validate() error {
	var faults []string
	check := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Sprintf(format, args...))
		}
	}
	check(filepath.IsAbs(c.State), "state: %q must be an absolute path", c.State)
	check(isAddress(c.Listen), "listen: %q must be HOST:PORT", c.Listen)
	check(c.IdentityFile == "" || filepath.IsAbs(c.IdentityFile), "identity_file: %q must be an absolute path", c.IdentityFile)
	check(c.Runtime == "gvisor" || c.Runtime == "runc", "runtime: %q is neither gvisor nor runc", c.Runtime)
	check(c.Rootfs == "" || filepath.IsAbs(c.Rootfs), "rootfs: %q must be an absolute path", c.Rootfs)
	check(c.Image == "" || c.Rootfs == "", "image and rootfs (--image and --rootfs): both say what sandboxes start from, name one of them")
	if _, err := image.Absolute(c.Image); err != nil && c.Image != "" {
		check(false, "image: %v", err)
	} else {
		check(image.IsAbsolute(c.Image), "image: %q must have an absolute path", c.Image)
	}
	check(c.UID > 0 && c.UID < 1<<31, "sandbox_uid: %d must not be root and below 2147483648", c.UID)
	check(c.GID > 0 && c.GID < 1<<31, "sandbox_gid: %d must not be root and below 2147483648", c.GID)
	check(c.MemoryMiB >= 256 && c.MemoryMiB <= 1<<24, "memory_mib: %d must be at least 256, which the agent needs, and at most 16777216", c.MemoryMiB)
	check(c.CPUs >= 0 && c.CPUs <= 1024, "cpus: %v must be between 0 (all) and 1024", c.CPUs)
	check(c.Processes >= 16 && c.Processes <= 1<<16, "processes: %d must be between 16 and 65536", c.Processes)
	check(c.ProjectMiB >= 0 && c.ProjectMiB <= 1<<24, "project_mib: %d must be between 1 and 16777216, or 0 for no bound but the user's", c.ProjectMiB)
	check(c.ProjectFiles >= 0 && c.ProjectFiles <= volumeFiles, "project_files: %d must be between 1 and %d, or 0 for no bound but the user's", c.ProjectFiles, volumeFiles)
	check(c.DiskMiB == 0 || c.DiskMiB >= 16 && c.DiskMiB <= 1<<24, "disk_mib: %d must be between 16 and 16777216, or 0 for no bound", c.DiskMiB)
	check(c.MinFreeDiskMiB >= 0 && c.MinFreeDiskMiB <= 1<<24, "min_free_disk_mib: %d must be between 0 (none) and 16777216", c.MinFreeDiskMiB)
	check(c.MaxSandboxes >= 1 && c.MaxSandboxes <= 10000, "max_sandboxes: %d must be between 1 and 10000", c.MaxSandboxes)
	check(c.SandboxIdle >= time.Second, "sandbox_idle: %v must be at least 1s", c.SandboxIdle)
	check(c.SandboxMaxAge >= time.Second, "sandbox_max_age: %v must be at least 1s", c.SandboxMaxAge)
	check(c.Spares >= 0 && c.Spares <= 100, "spare_sandboxes: %d must be between 0 and 100", c.Spares)
	check(c.MinFreeMiB >= 0 && c.MinFreeMiB <= 1<<24, "min_free_mib: %d must be between 0 (never look) and 16777216", c.MinFreeMiB)
	faults = append(faults, c.variableFaults()...)
	check(len(c.Tools) > 0, "tools: name at least one")
	for _, t := range c.Tools {
		check(t != "" && !strings.ContainsAny(t, " ,\t\n") && t[0] != '-', "tools: %q is no name of a tool", t)
	}
	check(!strings.HasPrefix(c.Model, "-") && !strings.ContainsAny(c.Model, " \t\n"), "model: %q is no name of a model", c.Model)
	check(!strings.ContainsRune(c.State+c.IdentityFile+c.Rootfs+c.ModelScript, 0), "state, identity_file, rootfs and model_script: a path has no NUL")
	check(c.MaxTurns >= 0, "max_turns: %d must not be negative", c.MaxTurns)
	check(c.Timeout >= time.Second && c.Timeout <= 24*time.Hour, "timeout: %v must be between 1s and 24h", c.Timeout)
	check(c.Lines >= 1, "output_lines: %d must be at least 1", c.Lines)
	check(c.MaxGenerations >= 1 && c.MaxGenerations <= 10000, "max_generations: %d must be between 1 and 10000", c.MaxGenerations)
	check(c.MaxWaiting >= 0 && c.MaxWaiting <= 100000, "max_waiting: %d must be between 0 and 100000", c.MaxWaiting)
	check(c.MaxPerUser >= 0 && c.MaxPerUser <= 1000, "max_waiting_per_user: %d must be between 0 and 1000", c.MaxPerUser)
	check(c.OnDisconnect == OnDisconnectCancel || c.OnDisconnect == OnDisconnectContinue, "on_disconnect: %q must be cancel or continue", c.OnDisconnect)
	check(c.DisconnectGrace >= 0 && c.DisconnectGrace <= time.Hour, "disconnect_grace: %v must be between 0s and 1h", c.DisconnectGrace)
	check(c.Grace >= 0, "grace: %v must not be negative", c.Grace)
	check(c.JournalDays >= 1 && c.JournalDays <= 36500, "journal_days: %d must be between 1 and 36500", c.JournalDays)
	for _, b := range []struct {
		name  string
		value int
	}{{"jobs_mib", c.JobsMiB}, {"history_mib", c.HistoryMiB}, {"history_user_mib", c.HistoryUserMiB}} {
		check(b.value >= 0 && b.value <= 1<<24, "%s: %d must be between 1 and 16777216, or 0 for no bound", b.name, b.value)
	}
	check(c.MemoryLimitMiB == 0 || c.MemoryLimitMiB >= 128 && c.MemoryLimitMiB <= 1<<24, "memory_limit_mib: %d must be between 128 and 16777216, or 0 for what the machine gives", c.MemoryLimitMiB)
	// Not quoted: it may hold a password.
	check(isWebAddress(c.Upstream), "upstream: it must be an http or https address")
	check(len(c.Upstreams) == 0 || c.Upstream == DefaultUpstream, "upstream (%s) and upstreams: both say where the model is, name one of them", envBaseURL)
	faults = append(faults, upstream.Faults(c.Upstreams)...)
	check(c.ServerTools || !slices.Contains(c.Tools, "WebSearch"), "tools: WebSearch makes the model's API search the web for the sandbox, which server_tools: true allows")
	check(c.ModelIdle >= time.Second, "model_idle: %v must be at least 1s", c.ModelIdle)
	c.checkSpending(check)
	c.checkPrompts(check)
	if _, err := egress.ParsePolicy(c.AllowHosts, c.AllowPrivateHosts, c.Inject); err != nil {
		check(false, "%v", err)
	}
	check(c.EgressMiB >= 1 && c.EgressMiB <= 1<<24, "egress_mib: %d must be between 1 and 16777216", c.EgressMiB)
	for _, fault := range c.previewFaults() {
		check(false, "%s", fault)
	}
	if _, err := history.ParseName(c.CommitMessage); err != nil {
		check(false, "commit_message: %v (a template has {{.Prompt}}, {{.User}}, {{.Project}} and {{.Job}})", err)
	}
	check(c.Language == "en" || c.Language == "ja", "language: %q must be en or ja", c.Language)
	check(slices.Contains([]string{"debug", "info", "warn", "error"}, c.LogLevel), "log_level: %q must be debug, info, warn or error", c.LogLevel)
	if len(faults) == 0 {
		return nil
	}
	return invalid(nil, "mend it in the configuration, the environment (DREAMCORE_…) or the flags", "%s", strings.Join(faults, "; "))
}

// isAddress tells whether s is HOST:PORT, with or without the host.
func isAddress(s string) bool {
	_, port, err := net.SplitHostPort(s)
	if err != nil || strings.ContainsAny(s, " \t\n\x00") {
		return false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && strconv.FormatUint(n, 10) == port
}

func isWebAddress(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Hostname() != ""
}

func invalid(err error, hint, format string, args ...any) error {
	return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: fmt.Sprintf(format, args...), Hint: hint, Err: err}
}

// Package config reads the settings: defaults, then a file, then the environment,
// then flags, where later sources take precedence. It is the only package that
// reads the environment.
//
// table.go lists every setting with its default, check and documentation;
// settings.go generates from the table; config.go has the struct and Load, layer.go
// the conversion of values, environment.go and wipe.go the environment. The other
// files hold the settings that need more than one line to check.
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

	"github.com/notef-neighbor/dreamcore/pkg/api/server"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/upstream"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/egress"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/store/image"
	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
	"github.com/notef-neighbor/dreamcore/pkg/work/webhook"
)

// Config holds every setting of the service and of commands that work on this
// machine; table.go documents them. The key of a setting in the file is its koanf tag; in the
// environment it is DREAMCORE_ and the key in upper case.
type Config struct {
	State  string `koanf:"state"`
	Listen string `koanf:"listen"`

	IdentityFile string `koanf:"identity_file"`
	SecretsDir   string `koanf:"secrets_dir"`

	Runtime string `koanf:"runtime"`
	Rootfs  string `koanf:"rootfs"`
	Image   string `koanf:"image"`
	UID     int    `koanf:"sandbox_uid"`
	GID     int    `koanf:"sandbox_gid"`

	MemoryMiB int     `koanf:"memory_mib"`
	CPUs      float64 `koanf:"cpus"`
	Processes int     `koanf:"processes"`

	DiskMiB        int `koanf:"disk_mib"`
	MinFreeDiskMiB int `koanf:"min_free_disk_mib"`

	ProjectMiB   int `koanf:"project_mib"`
	ProjectFiles int `koanf:"project_files"`

	AllowUnlimited bool `koanf:"allow_unlimited"`

	MaxSandboxes  int           `koanf:"max_sandboxes"`
	SandboxIdle   time.Duration `koanf:"sandbox_idle"`
	SandboxMaxAge time.Duration `koanf:"sandbox_max_age"`
	Spares        int           `koanf:"spare_sandboxes"`
	Standby       int           `koanf:"standby_sandboxes"`
	MinFreeMiB    int           `koanf:"min_free_mib"`
	WarmAgents    int           `koanf:"warm_agents"`

	SandboxEnv Variables `koanf:"sandbox_env"`

	Tools    []string      `koanf:"tools"`
	Model    string        `koanf:"model"`
	MaxTurns int           `koanf:"max_turns"`
	Timeout  time.Duration `koanf:"timeout"`
	Lines    int           `koanf:"output_lines"`

	MaxGenerations  int           `koanf:"max_generations"`
	MaxWaiting      int           `koanf:"max_waiting"`
	MaxPerUser      int           `koanf:"max_waiting_per_user"`
	OnDisconnect    string        `koanf:"on_disconnect"`
	DisconnectGrace time.Duration `koanf:"disconnect_grace"`
	Attempts        int           `koanf:"attempts"`
	Grace           time.Duration `koanf:"grace"`
	JournalDays     int           `koanf:"journal_days"`
	JobsMiB         int           `koanf:"jobs_mib"`

	HistoryMiB     int `koanf:"history_mib"`
	HistoryUserMiB int `koanf:"history_user_mib"`

	MemoryLimitMiB int `koanf:"memory_limit_mib"`

	Upstream  string           `koanf:"upstream"`
	Upstreams []upstream.Entry `koanf:"upstreams"`

	ModelScript string        `koanf:"model_script"`
	ServerTools bool          `koanf:"server_tools"`
	ModelIdle   time.Duration `koanf:"model_idle"`

	BudgetJobUSD          float64  `koanf:"budget_job_usd"`
	BudgetJobTokens       int      `koanf:"budget_job_tokens"`
	BudgetUserDayUSD      float64  `koanf:"budget_user_day_usd"`
	BudgetUserDayTokens   int      `koanf:"budget_user_day_tokens"`
	BudgetUserMonthUSD    float64  `koanf:"budget_user_month_usd"`
	BudgetUserMonthTokens int      `koanf:"budget_user_month_tokens"`
	BudgetDayUSD          float64  `koanf:"budget_day_usd"`
	BudgetMonthUSD        float64  `koanf:"budget_month_usd"`
	UserRequests          int      `koanf:"user_requests"`
	Prices                []string `koanf:"prices"`
	UsageDays             int      `koanf:"usage_days"`
	AuditMiB              int      `koanf:"audit_mib"`

	PromptModels map[string]string `koanf:"prompt_models"`
	MaxPrompts   int               `koanf:"max_prompts"`

	AllowHosts        []string `koanf:"allow_hosts"`
	AllowPrivateHosts []string `koanf:"allow_private_hosts"`
	Inject            []string `koanf:"inject"`
	EgressMiB         int      `koanf:"egress_mib"`

	Acceptance        string        `koanf:"acceptance"`
	AcceptanceRepairs int           `koanf:"acceptance_repairs"`
	AcceptanceLimit   time.Duration `koanf:"acceptance_limit"`
	AcceptanceOnApply bool          `koanf:"acceptance_on_apply"`

	PreviewDomain    string   `koanf:"preview_domain"`
	PreviewListen    string   `koanf:"preview_listen"`
	PreviewHosts     []string `koanf:"preview_hosts"`
	PreviewAncestors []string `koanf:"preview_frame_ancestors"`

	CORSOrigins []string `koanf:"cors_origins"`

	CommitMessage string `koanf:"commit_message"`

	Webhooks []webhook.Entry `koanf:"webhooks"`

	MetricsListen  string   `koanf:"metrics_listen"`
	TrustedProxies []string `koanf:"trusted_proxies"`

	Cells             string        `koanf:"cells"`
	CellsService      string        `koanf:"cells_service"`
	CellAddresses     string        `koanf:"cell_addresses"`
	KubernetesAPI     string        `koanf:"kubernetes_api"`
	KubernetesAccount string        `koanf:"kubernetes_account"`
	ShareSpending     bool          `koanf:"share_spending"`
	Hold              time.Duration `koanf:"hold"`
	HeldRequests      int           `koanf:"held_requests"`
	PreviewKeyFile    string        `koanf:"preview_key_file"`

	Language  string `koanf:"language"`
	LogLevel  string `koanf:"log_level"`
	LogFormat string `koanf:"log_format"`
}

// DefaultUpstream is the vendor's address of the model API.
const DefaultUpstream = upstream.DefaultAddress

// Values of on_disconnect.
const (
	OnDisconnectCancel   = "cancel"
	OnDisconnectContinue = "continue"
)

// Values of acceptance.
const (
	AcceptanceOff  = "off"
	AcceptanceWarn = "warn"
	AcceptanceFail = "fail"
)

// Values of log_format.
const (
	LogText = "text"
	LogJSON = "json"
)

// DefaultListen is the default of listen.
const DefaultListen = "127.0.0.1:8080"

// volumeFiles is the number of files of a project that are listed and saved.
const volumeFiles = 100_000

func defaultState(env map[string]string, root bool) string {
	if root {
		return "/var/lib/dreamcore"
	}
	if dir := env["XDG_STATE_HOME"]; filepath.IsAbs(dir) {
		return filepath.Join(dir, dreamcore.AppName)
	}
	return filepath.Join(env["HOME"], ".local/state", dreamcore.AppName)
}

// Sources are the inputs of Load.
type Sources struct {
	File    string         // empty: config.yaml of the state directory, if it exists
	Environ []string       // in the form of os.Environ
	Flags   map[string]any // settings by key that were given as flags
}

// FileName is the name of the file in the state directory.
const FileName = "config.yaml"

// Load reads the settings. An error names every wrong setting, its source and what
// would be valid.
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
		hint := "correct it there"
		if text := strings.Join(faults, ";"); strings.Contains(text, "unknown setting") {
			hint = unknownHint(text, slices.Sorted(maps.Keys(def)))
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

// stateOf returns the state directory, which holds the file unless File is set.
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
	faults = c.checks()
	check(c.Image == "" || c.Rootfs == "", "image and rootfs: both select what sandboxes start from; set one of them")
	if _, err := image.Absolute(c.Image); err != nil && c.Image != "" {
		check(false, "image: %v", err)
	} else {
		check(image.IsAbsolute(c.Image), "image: %q must have an absolute path", c.Image)
	}
	faults = append(faults, c.variableFaults()...)
	check(len(c.Tools) > 0, "tools: name at least one")
	for _, t := range c.Tools {
		check(t != "" && !strings.ContainsAny(t, " ,\t\n") && t[0] != '-', "tools: %q is not the name of a tool", t)
	}
	check(!strings.ContainsRune(c.State+c.IdentityFile+c.SecretsDir+c.Rootfs+c.ModelScript, 0), "state, identity_file, secrets_dir, rootfs and model_script: a path must not contain NUL")
	// Not quoted: it may hold a password.
	check(isWebAddress(c.Upstream), "upstream: it must be an http or https address")
	check(len(c.Upstreams) == 0 || c.Upstream == DefaultUpstream, "upstream (%s) and upstreams: both select the model API; set one of them", envBaseURL)
	faults = append(faults, upstream.Faults(c.Upstreams)...)
	check(c.ServerTools || !slices.Contains(c.Tools, "WebSearch"), "tools: WebSearch makes the model API search the web for the sandbox, which needs server_tools: true")
	if _, err := usage.ParsePrices(c.Prices); err != nil {
		check(false, "%v", err)
	}
	for _, alias := range slices.Sorted(maps.Keys(c.PromptModels)) {
		must := modelName(c.PromptModels[alias])
		check(must == "" && c.PromptModels[alias] != "", "prompt_models.%s: %q is not the name of a model", alias, c.PromptModels[alias])
	}
	if _, err := egress.ParsePolicy(c.AllowHosts, c.AllowPrivateHosts, c.Inject); err != nil {
		check(false, "%v", err)
	}
	faults = append(faults, c.previewFaults()...)
	faults = append(faults, c.corsFaults()...)
	faults = append(faults, webhook.Faults(c.Webhooks)...)
	if _, err := server.ParseProxies(c.TrustedProxies); err != nil {
		check(false, "trusted_proxies: %v", err)
	}
	if _, err := history.ParseName(c.CommitMessage); err != nil {
		check(false, "commit_message: %v (a template has {{.Prompt}}, {{.User}}, {{.Project}} and {{.Job}})", err)
	}
	if len(faults) == 0 {
		return nil
	}
	return invalid(nil, "correct it in the configuration, the environment (DREAMCORE_…) or the flags", "%s", strings.Join(faults, "; "))
}

// isAddress reports whether s is HOST:PORT; HOST may be empty.
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

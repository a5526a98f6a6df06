package config

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// prefix of the settings in the environment. Names with testPrefix steer the
// project's own tests.
const (
	prefix     = "DREAMCORE_"
	testPrefix = "DREAMCORE_TEST_"
	envConfig  = "DREAMCORE_CONFIG"
)

// Names in the environment that other programs of this field share with us.
const (
	envBaseURL        = "ANTHROPIC_BASE_URL"
	envAPIKey         = "ANTHROPIC_API_KEY"
	envEndpoint       = "MODAL_ENDPOINT"
	envInternalSecret = "MODAL_INTERNAL_SECRET"
	envAllowNonGVisor = "ALLOW_NON_GVISOR"
	envCredentials    = "CREDENTIALS_DIRECTORY"
	envIdentity       = "DREAMCORE_IDENTITY"
)

// secretNames are the variables with secrets, which Environ wipes.
var secretNames = []string{envAPIKey, envInternalSecret, envIdentity}

// IdentityCredential is the name of the systemd credential that holds the
// identity that opens the sealed secrets.
const IdentityCredential = "dreamcore-identity"

// Environment is what commands take from the environment beside settings.
type Environment struct {
	APIKey         string // the vendor's key, for setup
	Endpoint       string // of a service, for clients
	InternalSecret string // for clients
	NonGVisor      string // what ALLOW_NON_GVISOR says; see NonGVisorAllowed
	NoColor        bool
	Term           string
	Identity       string // that opens the sealed secrets, itself; "": it is a file
	IdentityFile   string // from systemd's credentials; "" means the one of the state directory
	Display        bool   // a browser can be opened
	ConfigFile     string // instead of --config
	GoMemoryLimit  bool   // GOMEMLIMIT is set: the runtime keeps it, and the service does not change it
	GoProcessors   bool   // GOMAXPROCS is set: the same
	CAFile         string // authorities that this process trusts, and sandboxes with it; "" means the machine's
}

// ReadEnvironment picks out what it knows.
func ReadEnvironment(environ []string) Environment {
	env := environment(environ)
	e := Environment{
		APIKey:         strings.TrimSpace(env[envAPIKey]),
		Endpoint:       env[envEndpoint],
		InternalSecret: strings.TrimSpace(env[envInternalSecret]),
		Identity:       strings.TrimSpace(env[envIdentity]),
		NonGVisor:      strings.TrimSpace(env[envAllowNonGVisor]),
		NoColor:        env["NO_COLOR"] != "",
		Term:           env["TERM"],
		ConfigFile:     env[envConfig],
		GoMemoryLimit:  env["GOMEMLIMIT"] != "",
		GoProcessors:   env["GOMAXPROCS"] != "",
		CAFile:         env["SSL_CERT_FILE"],
		Display:        env["DISPLAY"] != "" || env["WAYLAND_DISPLAY"] != "",
	}
	if dir := env[envCredentials]; dir != "" {
		file := filepath.Join(dir, IdentityCredential)
		if _, err := os.Stat(file); err == nil {
			e.IdentityFile = file
		}
	}
	return e
}

// NonGVisorAllowed reports whether the isolation gate may pass without gVisor.
// A word that means neither yes nor no is an error.
func (e Environment) NonGVisorAllowed() (bool, error) {
	switch strings.ToLower(e.NonGVisor) {
	case "1", "true", "t", "yes", "y", "on":
		return true, nil
	case "", "0", "false", "f", "no", "n", "off":
		return false, nil
	}
	return false, invalid(nil, "set it to true, or leave it out", "%s: %q is neither true nor false", envAllowNonGVisor, e.NonGVisor)
}

// Environ is the environment of this process, for Load and ReadEnvironment.
// Secrets in it are there for the first caller only: children do not inherit
// them, and they are overwritten in the memory that /proc/PID/environ shows.
// The caller keeps what it was given from others with WithoutSecrets. An error
// says that some could not be overwritten.
func Environ() (environ []string, err error) {
	environ = os.Environ()
	if len(WithoutSecrets(environ)) == len(environ) {
		return environ, nil
	}
	for _, name := range secretNames {
		_ = os.Unsetenv(name) // it fails for impossible names only
	}
	return environ, wipeEnvironment()
}

// WithoutSecrets returns the environment for children.
func WithoutSecrets(environ []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.Contains(secretNames, name)
	})
}

func environment(environ []string) map[string]string {
	m := make(map[string]string, len(environ))
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok {
			m[k] = v
		}
	}
	return m
}

// environmentSettings are the settings in env. An empty value is no value. A
// name with our prefix that is no setting is a fault: it is a slip of the pen
// that would otherwise go unnoticed.
func environmentSettings(env map[string]string, known map[string]any) (l layer, faults []string) {
	m, names := map[string]any{}, map[string]string{}
	if v := env[envBaseURL]; v != "" {
		m["upstream"], names["upstream"] = v, envBaseURL
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		v := env[name]
		rest, ours := strings.CutPrefix(name, prefix)
		if !ours || v == "" || name == envConfig || name == envIdentity || strings.HasPrefix(name, testPrefix) {
			continue
		}
		key := strings.ToLower(rest)
		if _, ok := known[key]; !ok || strings.ToUpper(key) != rest {
			faults = append(faults, fmt.Sprintf("unknown setting %s in the environment", name))
			continue
		}
		m[key], names[key] = v, name
	}
	return layer{values: m, source: func(key string) string { return names[key] + " in the environment" }}, faults
}

// Lookup returns a function that looks up one variable, as os.Getenv does.
func Lookup(environ []string) func(string) string {
	env := environment(environ)
	return func(name string) string { return env[name] }
}

// Invoker returns the user who runs this process by sudo, and their group. ok
// is false when it was not started so; only root is believed to be somebody
// else.
func Invoker(environ []string) (uid, gid int, ok bool) {
	if os.Geteuid() != 0 {
		return 0, 0, false
	}
	look := Lookup(environ)
	u, uerr := strconv.ParseUint(look("SUDO_UID"), 10, 31)
	g, gerr := strconv.ParseUint(look("SUDO_GID"), 10, 31)
	return int(u), int(g), uerr == nil && gerr == nil
}

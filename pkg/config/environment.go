package config

import (
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// prefix begins the names of settings in the environment. Names with testPrefix
// control the tests of this project.
const (
	prefix     = "DREAMCORE_"
	testPrefix = "DREAMCORE_TEST_"
	envConfig  = "DREAMCORE_CONFIG"
)

// Variables that other programs of this field use too.
const (
	envBaseURL        = "ANTHROPIC_BASE_URL"
	envAPIKey         = "ANTHROPIC_API_KEY"
	envEndpoint       = "MODAL_ENDPOINT"
	envInternalSecret = "MODAL_INTERNAL_SECRET"
	envAllowNonGVisor = "ALLOW_NON_GVISOR"
	envCredentials    = "CREDENTIALS_DIRECTORY"
	envIdentity       = "DREAMCORE_IDENTITY"
)

// secretNames are the variables that hold secrets; Environ wipes them.
var secretNames = []string{envAPIKey, envInternalSecret, envIdentity}

// IdentityCredential is the name of the systemd credential that holds the
// identity that opens the sealed secrets.
const IdentityCredential = "dreamcore-identity"

// Environment holds what commands read from the environment besides settings.
type Environment struct {
	APIKey         string // the vendor's key, for setup
	Endpoint       string // of a service, for clients
	InternalSecret string // for clients
	NonGVisor      string // value of ALLOW_NON_GVISOR; see NonGVisorAllowed
	NoColor        bool
	Term           string
	Identity       string // the identity itself; empty if it is in a file
	IdentityFile   string // a systemd credential; empty for the file in the state directory
	Display        bool   // a browser can be opened
	ConfigFile     string // default of --config
	GoMemoryLimit  bool   // GOMEMLIMIT is set: the service does not change the limit of the runtime
	GoProcessors   bool   // GOMAXPROCS is set: the service does not change it
	KubernetesAPI  string // the address of the API server; empty outside of Kubernetes
	CAFile         string // certificate authorities of this process and of sandboxes; empty for the machine's
}

// ReadEnvironment reads the variables that Environment describes.
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
	if host, port := env["KUBERNETES_SERVICE_HOST"], env["KUBERNETES_SERVICE_PORT"]; host != "" && port != "" {
		e.KubernetesAPI = "https://" + net.JoinHostPort(host, port)
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

// Environ returns the environment of this process, for Load and ReadEnvironment.
// Only the first call returns secrets: it removes them from the environment that
// children inherit and overwrites them in the memory that /proc/PID/environ shows.
// Callers must use WithoutSecrets before they pass the result on. It returns an
// error if some secrets could not be overwritten.
func Environ() (environ []string, err error) {
	environ = os.Environ()
	if len(WithoutSecrets(environ)) == len(environ) {
		return environ, nil
	}
	for _, name := range secretNames {
		_ = os.Unsetenv(name) // fails only for invalid names
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

// environmentSettings returns the settings in env. An empty value counts as unset.
// A name with our prefix that is not a setting is a fault: a typing error would
// otherwise go unnoticed.
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

// Lookup returns a function like os.Getenv for environ.
func Lookup(environ []string) func(string) string {
	env := environment(environ)
	return func(name string) string { return env[name] }
}

// Invoker returns the user and the group that started this process through sudo.
// ok is false if it was not started through sudo, or does not run as root.
func Invoker(environ []string) (uid, gid int, ok bool) {
	if os.Geteuid() != 0 {
		return 0, 0, false
	}
	look := Lookup(environ)
	u, uerr := strconv.ParseUint(look("SUDO_UID"), 10, 31)
	g, gerr := strconv.ParseUint(look("SUDO_GID"), 10, 31)
	return int(u), int(g), uerr == nil && gerr == nil
}

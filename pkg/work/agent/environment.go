package agent

import (
	"slices"
	"strings"
)

// ownNames are variables that Config.env does not set, but that would change how
// the agent, its shell or its egress works.
var ownNames = []string{
	"PWD", "OLDPWD", "SHLVL", "LOGNAME", "TERM", "_", "ENV", "IFS", "SHELLOPTS", "BASHOPTS", "PROMPT_COMMAND",
	"NODE_OPTIONS", "GLIBC_TUNABLES", "IS_SANDBOX", "NODE_USE_ENV_PROXY",
	"SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS",
}

// ownPrefixes are prefixes of the names of such variables.
var ownPrefixes = []string{"ANTHROPIC_", "CLAUDE", "DREAMCORE_", "MODAL_", "LD_", "LC_", "BASH_", "BUN_"}

// Owns reports whether a variable belongs to the environment of the agent, so
// that an operator cannot set it for the programs in a sandbox.
func Owns(name string) bool {
	if strings.HasSuffix(strings.ToUpper(name), "_PROXY") || slices.Contains(ownNames, name) {
		return true
	}
	if slices.ContainsFunc(ownPrefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
		return true
	}
	return slices.ContainsFunc(Config{}.env(""), func(kv string) bool {
		own, _, _ := strings.Cut(kv, "=")
		return own == name
	})
}

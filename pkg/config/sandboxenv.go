package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
)

// Limits of sandbox_env. The kernel allows 128 KiB for one variable.
const (
	maxVariables     = 64
	maxVariableName  = 128
	maxVariableBytes = 16 << 10
)

// Variables is an environment: values by name.
type Variables map[string]string

// variables reads sandbox_env: a YAML mapping, or JSON text from the environment.
// Errors do not contain values: they may be secrets by mistake.
func variables(v any) (any, error) {
	const form = `write {NAME: "value"}`
	if text, ok := v.(string); ok {
		var m map[string]any
		if strings.TrimSpace(text) != "" && json.Unmarshal([]byte(text), &m) != nil {
			return nil, errors.New(`it is not a JSON object: write {"NAME": "value"}`)
		}
		v = m
	}
	m, ok := v.(map[string]any)
	if !ok {
		if set, ok := v.(map[string]string); ok {
			return Variables(set), nil
		}
		return nil, errors.New("it is not a map: " + form)
	}
	set := make(Variables, len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if set[name], ok = m[name].(string); !ok {
			return nil, fmt.Errorf("the value of %q is not text; put it into quotes", name)
		}
	}
	return set, nil
}

// variableFaults returns the faults of sandbox_env.
func (c Config) variableFaults() (faults []string) {
	if len(c.SandboxEnv) > maxVariables {
		return []string{fmt.Sprintf("sandbox_env: at most %d variables", maxVariables)}
	}
	for _, name := range slices.Sorted(maps.Keys(c.SandboxEnv)) {
		value := c.SandboxEnv[name]
		switch {
		case !isVariable(name):
			faults = append(faults, fmt.Sprintf("sandbox_env: %.140q is not a variable name: use letters, digits and _, at most %d, no digit first", name, maxVariableName))
		case agent.Owns(name):
			faults = append(faults, fmt.Sprintf("sandbox_env: %s belongs to the agent's own environment, use another name", name))
		case len(value) > maxVariableBytes || !utf8.ValidString(value) || strings.ContainsRune(value, 0):
			faults = append(faults, fmt.Sprintf("sandbox_env: the value of %s must be UTF-8 text without NUL of at most %d bytes", name, maxVariableBytes))
		}
	}
	return faults
}

func isVariable(name string) bool {
	if name == "" || len(name) > maxVariableName || name[0] >= '0' && name[0] <= '9' {
		return false
	}
	return strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_") == ""
}

// SandboxEnviron returns sandbox_env as "NAME=value", sorted by name.
func (c Config) SandboxEnviron() []string {
	var environ []string
	for _, name := range slices.Sorted(maps.Keys(c.SandboxEnv)) {
		environ = append(environ, name+"="+c.SandboxEnv[name])
	}
	return environ
}

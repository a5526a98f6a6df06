package main

import (
	"maps"
	"slices"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
)

// checkVariables refuses variables for sandboxes in which a secret of this
// machine is, also in base64 or hexadecimal digits: everything in a sandbox can
// read them. The error names no value.
func (s state) checkVariables(variables map[string]string) error {
	if len(variables) == 0 {
		return nil
	}
	secrets := &secret.Redactor{}
	secrets.Add(slices.Collect(maps.Values(s.guarded()))...)
	secrets.Add(s.env.APIKey, s.env.InternalSecret)
	var found []string
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		if value := variables[name]; secrets.Redact(value) != value {
			found = append(found, name)
		}
	}
	if len(found) == 0 {
		return nil
	}
	return &dreamcore.Error{
		Code:    dreamcore.CodeInvalid,
		Message: "sandbox_env: a secret is in " + strings.Join(found, ", ") + ", and every program in a sandbox can read it",
		Hint:    "take it out of sandbox_env, and let the service add it to requests outside of the sandbox with the setting inject",
	}
}

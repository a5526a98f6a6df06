package daemon

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/egress"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
)

// Secrets opens the sealed secrets without the rest of the state directory. It
// creates nothing, since clients look for a secret on machines that serve
// nothing, unless create is set.
func Secrets(cfg config.Config, env config.Environment, create bool) (*secret.Store, error) {
	if err := checkIdentity(cfg, env); err != nil {
		return nil, err
	}
	if create {
		if _, err := initSecrets(cfg, env); err != nil {
			return nil, err
		}
	}
	return openSecrets(cfg, env)
}

// OpenSecrets opens the sealed secrets.
func (s *State) OpenSecrets() (*secret.Store, error) { return openSecrets(s.Config, s.env) }

// CreateSecrets opens the sealed secrets, and creates the directory and the
// identity if they do not exist. It reports whether it created an identity.
func (s *State) CreateSecrets() (store *secret.Store, created bool, err error) {
	if created, err = initSecrets(s.Config, s.env); err != nil {
		return nil, false, err
	}
	store, err = s.OpenSecrets()
	return store, created, err
}

func openSecrets(cfg config.Config, env config.Environment) (*secret.Store, error) {
	dir := filepath.Join(cfg.State, SecretsDir)
	var store *secret.Store
	var err error
	if env.Identity != "" {
		store, err = secret.OpenGiven(dir, env.Identity)
	} else {
		store, err = secret.Open(dir, identityFile(cfg, env))
	}
	if err != nil {
		return nil, err
	}
	return store.WithMounted(cfg.SecretsDir)
}

func initSecrets(cfg config.Config, env config.Environment) (created bool, err error) {
	dir := filepath.Join(cfg.State, SecretsDir)
	if env.Identity != "" {
		return false, secret.InitGiven(dir, env.Identity)
	}
	return secret.Init(dir, identityFile(cfg, env))
}

// identityFile returns the file that holds the identity, or "" for the one next
// to the secrets. The setting takes precedence over a credential of systemd.
func identityFile(cfg config.Config, env config.Environment) string {
	if cfg.IdentityFile != "" {
		return cfg.IdentityFile
	}
	return env.IdentityFile
}

// checkIdentity refuses two identities: either could be the right one.
func checkIdentity(cfg config.Config, env config.Environment) error {
	if env.Identity == "" || cfg.IdentityFile == "" {
		return nil
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeInvalid, Message: "the identity of the secrets is given twice: as DREAMCORE_IDENTITY and as the setting identity_file",
		Hint: "keep only one: unset DREAMCORE_IDENTITY, or take identity_file out of the configuration",
	}
}

// linkKey returns the key of links to jobs, and hides it. A trial makes no secret.
func (s *State) linkKey(trial bool) (string, error) {
	if trial {
		return "", nil
	}
	store, err := s.OpenSecrets()
	if err != nil {
		return "", err
	}
	key, err := store.LinkValue()
	if err != nil {
		return "", err
	}
	s.hide(key)
	return key, nil
}

// sealed returns the current values of a secret.
func (s *State) sealed(name string) (map[string]string, error) {
	store, err := s.OpenSecrets()
	if err != nil {
		return nil, err
	}
	return store.Get(name)
}

// hide removes a value from everything that is printed from now on.
func (s *State) hide(value string) {
	if s.Redactor.Redact(value) == value {
		s.Redactor.Add(value)
	}
}

// unhide lets a value that is no longer a secret be printed again.
func (s *State) unhide(value string) { s.Redactor.Remove(value) }

// injected returns the secret that is added to the requests of an injection,
// and hides it.
func (s *State) injected(i egress.Injection) (string, error) {
	if _, err := s.OpenSecrets(); err != nil {
		return "", err // of all secrets, not of this one
	}
	values, err := s.sealed(i.Secret)
	if err != nil {
		return "", &dreamcore.Error{
			Code: dreamcore.CodeSetup, Reason: ReasonNoInjected, Message: fmt.Sprintf("the secret %s for %s cannot be read", i.Secret, i.Target), Err: err,
		}
	}
	key := i.Key
	if key == "" && len(values) == 1 {
		for key = range values {
		}
	}
	v, ok := values[key]
	if !ok {
		return "", &dreamcore.Error{
			Code: dreamcore.CodeSetup, Reason: ReasonInjectKey, Message: fmt.Sprintf("the secret %s for %s has several keys, or lacks the named one", i.Secret, i.Target),
			Hint: fmt.Sprintf("name one of its keys: %s=%s/KEY:%s", i.Target, i.Secret, i.Header),
		}
	}
	s.hide(v)
	return v, nil
}

// minGuarded is the length in bytes from which a value is distinct enough to be
// searched for in other text.
const minGuarded = 12

// guarded returns the secrets that must never be visible in a sandbox, by the
// names that the gates use. A secret that is not set or cannot be read has an
// empty value.
func (s *State) guarded() map[string]string {
	all := map[string]string{"the API key": "", "the internal secret": "", "the identity": s.identity()}
	store, err := s.OpenSecrets()
	if err != nil {
		return all
	}
	all["the API key"], _ = store.Value(secret.AnthropicSecret, secret.AnthropicKey)
	if values, err := store.InternalValues(); err == nil && len(values) > 0 {
		all["the internal secret"] = values[0]
	}
	infos, _ := store.List()
	for _, i := range infos { // also credentials of upstreams and of hosts
		values, _ := store.Get(i.Name)
		for key, value := range values {
			if len(value) >= minGuarded {
				all["the sealed secret "+i.Name+"/"+key] = value
			}
		}
	}
	return all
}

// identity returns the key that opens the sealed secrets, or "".
func (s *State) identity() string {
	if s.env.Identity != "" {
		return s.env.Identity
	}
	files, _ := filepath.Glob(filepath.Join(s.Path(SecretsDir), "identity*"))
	for _, name := range append([]string{identityFile(s.Config, s.env)}, files...) {
		raw, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(raw)) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "AGE-SECRET-KEY-") {
				return line
			}
		}
	}
	return ""
}

// checkVariables refuses variables for sandboxes that contain a secret of this
// machine, also in base64 or hexadecimal: every program in a sandbox can read
// them. The error does not contain a value.
func (s *State) checkVariables(variables map[string]string) error {
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

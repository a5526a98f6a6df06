package upstream

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
	"github.com/notef-neighbor/dreamcore/pkg/system/pattern"
)

// Kinds of upstreams.
const (
	Anthropic = "anthropic" // the Messages API of the vendor or a compatible proxy
	Vertex    = "vertex"    // Google Vertex AI
	Bedrock   = "bedrock"   // Amazon Bedrock
)

// NoKey in place of a secret means that the upstream needs no credential.
const NoKey = "none"

// AnyModel in Entry.Models applies to every model without its own entry.
const AnyModel = "*"

// DefaultAddress is the address of the vendor's API.
const DefaultAddress = "https://api.anthropic.com"

// Entry is the configuration of one upstream. A secret with one value is
// referenced as NAME, others as NAME/KEY.
type Entry struct {
	Name    string `koanf:"name"`
	Kind    string `koanf:"kind"`
	BaseURL string `koanf:"base_url"` // without /v1; if "", the default of the kind and region

	APIKey    string `koanf:"api_key"`    // secret, sent in X-Api-Key; NoKey sends none
	Bearer    string `koanf:"bearer"`     // secret, sent in Authorization
	AllowHTTP bool   `koanf:"allow_http"` // allow http to addresses that are not private

	Region  string `koanf:"region"`  // of a cloud
	Project string `koanf:"project"` // of Vertex

	ServiceAccount string `koanf:"service_account"`      // secret: the JSON file of a Google service account
	AWSCredentials string `koanf:"aws_credentials"`      // secret with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and perhaps AWS_SESSION_TOKEN
	AWSFile        string `koanf:"aws_credentials_file"` // instead of the secret: a profile file
	AWSProfile     string `koanf:"aws_profile"`          // in that file; "default" if ""

	Models map[string]string `koanf:"models"`  // from the requested name to the upstream's name
	CAFile string            `koanf:"ca_file"` // PEM certificates that are trusted in addition to the host's

	// HeaderTimeout is how long the first byte of a streamed answer may take
	// while another upstream could be tried; 30 s if 0. An answer that is not
	// streamed may take four times as long.
	HeaderTimeout time.Duration `koanf:"header_timeout"`
}

var (
	entryName   = pattern.New(`^[a-z0-9][a-z0-9_.-]*$`)
	regionName  = pattern.New(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	projectName = pattern.New(`^[a-z0-9][a-z0-9.:-]*$`)
)

// Faults returns the errors of the whole list, each with the field and how to
// correct it.
func Faults(list []Entry) (faults []string) {
	names := map[string]bool{}
	for i, e := range list {
		at := fmt.Sprintf("upstreams[%d]", i)
		if entryName().MatchString(e.Name) && len(e.Name) <= 63 {
			at = "upstreams." + e.Name
		}
		for _, f := range e.faults() {
			faults = append(faults, at+"."+f)
		}
		if names[e.Name] {
			faults = append(faults, at+".name: is used by two upstreams")
		}
		names[e.Name] = true
	}
	return faults
}

func (e Entry) faults() (faults []string) {
	check := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Sprintf(format, args...))
		}
	}
	check(entryName().MatchString(e.Name) && len(e.Name) <= 63, "name: use 1 to 63 lower-case letters, digits, dots and dashes, such as vertex-eu")
	kinds := []string{Anthropic, Vertex, Bedrock}
	known := slices.Contains(kinds, e.Kind)
	check(known, "kind: %q must be one of %s", e.Kind, strings.Join(kinds, ", "))
	if known {
		e.checkKind(check)
	}
	if address := e.address(); address != "" {
		_, err := gateway.CheckBaseURL(address, e.AllowHTTP)
		// The text does not contain the address.
		check(err == nil, "base_url: %s (%s)", message(err), dreamcore.HintOf(err))
	}
	for _, ref := range []string{e.APIKey, e.Bearer, e.ServiceAccount, e.AWSCredentials} {
		name, _, _ := strings.Cut(ref, "/")
		check(ref == "" || secret.CheckName(name) == nil, "%q is not the name of a secret: use NAME or NAME/KEY", ref)
	}
	for _, from := range sortedKeys(e.Models) {
		to := e.Models[from]
		check(from != "" && to != "" && !strings.ContainsAny(to, " \t\r\n\x00") && len(to) <= maxModelName, "models: %q: %q must be two model names", from, to)
	}
	check(e.CAFile == "" || filepath.IsAbs(e.CAFile), "ca_file: %q must be an absolute path", e.CAFile)
	check(e.HeaderTimeout == 0 || e.HeaderTimeout >= time.Second, "header_timeout: %v must be at least 1s", e.HeaderTimeout)
	return faults
}

// checkKind checks which fields the kind requires and which it does not use.
func (e Entry) checkKind(check func(ok bool, format string, args ...any)) {
	unused := func(field, value string) {
		check(value == "", "%s: is not used by an upstream of kind %s, remove it", field, e.Kind)
	}
	if e.Kind == Anthropic {
		check((e.APIKey == "") != (e.Bearer == ""), "api_key, bearer: name the secret in one of them (api_key: %s for an upstream that needs no key)", NoKey)
		check(e.Bearer != NoKey, "bearer: use api_key: %s for an upstream that needs no key", NoKey)
		unused("region", e.Region)
	} else {
		unused("api_key", e.APIKey)
		unused("bearer", e.Bearer)
		check(regionName().MatchString(e.Region), "region: %q must be a region of the cloud, such as us-east5 (Vertex) or us-east-1 (Bedrock)", e.Region)
	}
	if e.Kind == Vertex {
		check(projectName().MatchString(e.Project), "project: %q must be the id of a Google Cloud project", e.Project)
		check(e.ServiceAccount != "", "service_account: name the secret with the service account's JSON file, such as NAME/JSON")
	} else {
		unused("project", e.Project)
		unused("service_account", e.ServiceAccount)
	}
	if e.Kind == Bedrock {
		check((e.AWSCredentials == "") != (e.AWSFile == ""), "aws_credentials, aws_credentials_file: name the secret or the file, one of them")
		check(e.AWSFile == "" || filepath.IsAbs(e.AWSFile), "aws_credentials_file: %q must be an absolute path", e.AWSFile)
		check(e.AWSProfile == "" || e.AWSFile != "", "aws_profile: requires aws_credentials_file")
	} else {
		unused("aws_credentials", e.AWSCredentials)
		unused("aws_credentials_file", e.AWSFile)
		unused("aws_profile", e.AWSProfile)
	}
}

// address returns the upstream's address, or "" if it is not configured.
func (e Entry) address() string {
	switch {
	case e.BaseURL != "":
		return e.BaseURL
	case e.Kind == Anthropic:
		return DefaultAddress
	case !regionName().MatchString(e.Region):
		return ""
	case e.Kind == Bedrock:
		return "https://bedrock-runtime." + e.Region + ".amazonaws.com"
	case e.Kind == Vertex && e.Region == "global":
		return "https://aiplatform.googleapis.com"
	case e.Kind == Vertex && (e.Region == "us" || e.Region == "eu"):
		return "https://aiplatform." + e.Region + ".rep.googleapis.com"
	case e.Kind == Vertex:
		return "https://" + e.Region + "-aiplatform.googleapis.com"
	}
	return ""
}

// Title returns the upstream's name and address for the operator.
func (e Entry) Title() string { return e.Name + " (" + e.address() + ")" }

// model returns the upstream's name for the requested model.
func (e Entry) model(asked string) string {
	if asked == "" {
		return ""
	}
	return cmp.Or(e.Models[asked], e.Models[AnyModel], asked)
}

// aliases are names that the agent replaces before it sends a request.
var aliases = []string{"default", "best", "sonnet", "opus", "haiku", "opusplan", "sonnet[1m]", "opus[1m]"}

// CheckModel returns an error if the upstream has no name for the requested
// model; "" is the agent's own choice, which depends on its version. An upstream
// without mapped models gets the agent's names, like the vendor's API. Bedrock
// has different names for all models.
func (e Entry) CheckModel(model string) error {
	if len(e.Models) == 0 && (e.Kind != Bedrock || strings.Contains(model, ".")) || e.Models[AnyModel] != "" {
		return nil
	}
	field := "upstreams." + e.Name + ".models"
	unmapped := func(what, hint string) error {
		return &dreamcore.Error{Code: dreamcore.CodeSetup, Reason: ReasonModels, Message: field + " has no entry for " + what, Hint: hint}
	}
	const anyEntry = `add an entry "*": NAME for every other model`
	switch {
	case model == "" && len(e.Models) > 0:
		return unmapped("the model that the agent chooses itself", "set model to one of its entries ("+strings.Join(sortedKeys(e.Models), ", ")+"), or "+anyEntry)
	case model == "":
		return unmapped("the model that the agent chooses itself", anyEntry)
	case slices.Contains(aliases, model):
		return unmapped("the name that the agent substitutes for "+model, "set model to a full name that has an entry, or "+anyEntry)
	case e.Models[model] == "":
		return unmapped("the model "+model, "add "+model+": NAME to it, or "+anyEntry)
	}
	return nil
}

// Cloud reports whether the upstream supports less than the vendor's newest API.
func (e Entry) Cloud() bool { return e.Kind == Bedrock || e.Kind == Vertex }

// repair returns what the operator does if the upstream refuses its credential. It
// names the command, because the log of a service is where it is read.
func (e Entry) repair() string {
	name, key, _ := strings.Cut(cmp.Or(e.ServiceAccount, e.AWSCredentials, e.APIKey, e.Bearer), "/")
	switch {
	case e.AWSFile != "":
		return "run: aws configure --profile " + cmp.Or(e.AWSProfile, defaultProfile)
	case e.APIKey == NoKey:
		return "name a secret in api_key if the upstream needs a key"
	case name == secret.AnthropicSecret:
		return "replace the secret " + name + ": dreamcore setup --rotate " + name
	case e.Kind == Bedrock:
		key = awsKeyID + "=… " + awsSecret
	case e.Kind == Vertex:
		key = cmp.Or(key, "JSON")
	}
	return "replace the secret " + name + ": dreamcore secret create --force " + name + " " + cmp.Or(key, "KEY") + "=- < FILE"
}

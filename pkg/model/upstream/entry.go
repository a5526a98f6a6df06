package upstream

import (
	"cmp"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
)

// Kinds of upstreams.
const (
	Anthropic = "anthropic" // the Messages API: the vendor's, or a proxy's that speaks it
	Vertex    = "vertex"    // Google Vertex AI
	Bedrock   = "bedrock"   // Amazon Bedrock
)

// NoKey in place of a secret says that the upstream wants no credential.
const NoKey = "none"

// AnyModel in Entry.Models stands for every model that has no line of its own.
const AnyModel = "*"

// DefaultAddress is the vendor's.
const DefaultAddress = "https://api.anthropic.com"

// Entry is one upstream as an operator describes it. A secret is named as
// NAME, where it has one value, or as NAME/KEY.
type Entry struct {
	Name    string `koanf:"name"`
	Kind    string `koanf:"kind"`
	BaseURL string `koanf:"base_url"` // without /v1; "" is the address that the kind and the region give

	APIKey    string `koanf:"api_key"`    // secret, sent in X-Api-Key; NoKey sends none
	Bearer    string `koanf:"bearer"`     // secret, sent in Authorization
	AllowHTTP bool   `koanf:"allow_http"` // http to addresses that are not private

	Region  string `koanf:"region"`  // of a cloud
	Project string `koanf:"project"` // of Vertex

	ServiceAccount string `koanf:"service_account"`      // secret: the JSON file of a Google service account
	AWSCredentials string `koanf:"aws_credentials"`      // secret with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and perhaps AWS_SESSION_TOKEN
	AWSFile        string `koanf:"aws_credentials_file"` // instead of it: a file of profiles
	AWSProfile     string `koanf:"aws_profile"`          // in that file; "" is default

	Models map[string]string `koanf:"models"`  // the name that the agent asks for: the upstream's
	CAFile string            `koanf:"ca_file"` // certificates in PEM form that are trusted beside the machine's

	// HeaderTimeout is how long the first byte of a streamed answer may take
	// while another upstream could be asked; 0 is 30 s. A whole answer has four
	// times as long.
	HeaderTimeout time.Duration `koanf:"header_timeout"`
}

var (
	entryName   = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]*$`)
	regionName  = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	projectName = regexp.MustCompile(`^[a-z0-9][a-z0-9.:-]*$`)
)

// Faults of the whole list, each with the field and what would be right.
func Faults(list []Entry) (faults []string) {
	names := map[string]bool{}
	for i, e := range list {
		at := fmt.Sprintf("upstreams[%d]", i)
		if entryName.MatchString(e.Name) && len(e.Name) <= 63 {
			at = "upstreams." + e.Name
		}
		for _, f := range e.faults() {
			faults = append(faults, at+"."+f)
		}
		if names[e.Name] {
			faults = append(faults, at+".name: two upstreams have it")
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
	check(entryName.MatchString(e.Name) && len(e.Name) <= 63, "name: use 1 to 63 lower-case letters, digits, dots and dashes, such as vertex-eu")
	kinds := []string{Anthropic, Vertex, Bedrock}
	known := slices.Contains(kinds, e.Kind)
	check(known, "kind: %q must be one of %s", e.Kind, strings.Join(kinds, ", "))
	if known {
		e.checkKind(check)
	}
	if address := e.address(); address != "" {
		_, err := gateway.CheckBaseURL(address, e.AllowHTTP)
		// Its text is ours and does not quote the address.
		check(err == nil, "base_url: %s (%s)", message(err), dreamcore.HintOf(err))
	}
	for _, ref := range []string{e.APIKey, e.Bearer, e.ServiceAccount, e.AWSCredentials} {
		name, _, _ := strings.Cut(ref, "/")
		check(ref == "" || secret.CheckName(name) == nil, "%q is no name of a secret: write NAME or NAME/KEY, and make it with: dreamcore secret create", ref)
	}
	for _, from := range sortedKeys(e.Models) {
		to := e.Models[from]
		check(from != "" && to != "" && !strings.ContainsAny(to, " \t\r\n\x00") && len(to) <= maxModelName, "models: %q: %q must be two names of models", from, to)
	}
	check(e.CAFile == "" || filepath.IsAbs(e.CAFile), "ca_file: %q must be an absolute path", e.CAFile)
	check(e.HeaderTimeout == 0 || e.HeaderTimeout >= time.Second, "header_timeout: %v must be at least 1s", e.HeaderTimeout)
	return faults
}

// checkKind checks what the kind must have and what it has no use for.
func (e Entry) checkKind(check func(ok bool, format string, args ...any)) {
	unused := func(field, value string) {
		check(value == "", "%s: an upstream of kind %s has none, take the line out", field, e.Kind)
	}
	if e.Kind == Anthropic {
		check((e.APIKey == "") != (e.Bearer == ""), "api_key, bearer: name the secret in one of them (api_key: %s for an upstream that wants no key)", NoKey)
		check(e.Bearer != NoKey, "bearer: write api_key: %s for an upstream that wants no key", NoKey)
		unused("region", e.Region)
	} else {
		unused("api_key", e.APIKey)
		unused("bearer", e.Bearer)
		check(regionName.MatchString(e.Region), "region: %q must be a region of the cloud, such as us-east5 (Vertex) or us-east-1 (Bedrock)", e.Region)
	}
	if e.Kind == Vertex {
		check(projectName.MatchString(e.Project), "project: %q must be the id of a Google Cloud project", e.Project)
		check(e.ServiceAccount != "", "service_account: name the secret with the service account's JSON file (make it with: dreamcore secret create NAME JSON=- < FILE)")
	} else {
		unused("project", e.Project)
		unused("service_account", e.ServiceAccount)
	}
	if e.Kind == Bedrock {
		check((e.AWSCredentials == "") != (e.AWSFile == ""), "aws_credentials, aws_credentials_file: name the secret or the file, one of them")
		check(e.AWSFile == "" || filepath.IsAbs(e.AWSFile), "aws_credentials_file: %q must be an absolute path", e.AWSFile)
		check(e.AWSProfile == "" || e.AWSFile != "", "aws_profile: it is in a file, name that in aws_credentials_file")
	} else {
		unused("aws_credentials", e.AWSCredentials)
		unused("aws_credentials_file", e.AWSFile)
		unused("aws_profile", e.AWSProfile)
	}
}

// address is the upstream's, "" where nothing gives one.
func (e Entry) address() string {
	switch {
	case e.BaseURL != "":
		return e.BaseURL
	case e.Kind == Anthropic:
		return DefaultAddress
	case !regionName.MatchString(e.Region):
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

// Title names the upstream for an operator: its name and its address.
func (e Entry) Title() string { return e.Name + " (" + e.address() + ")" }

// model is the upstream's name for the model that is asked for.
func (e Entry) model(asked string) (name string, mapped bool) {
	if asked == "" {
		return "", false
	}
	name = cmp.Or(e.Models[asked], e.Models[AnyModel])
	if name == "" {
		return asked, false
	}
	return name, true
}

// aliases are names that the agent turns into others before it asks.
var aliases = []string{"default", "best", "sonnet", "opus", "haiku", "opusplan", "sonnet[1m]", "opus[1m]"}

// CheckModel returns an error where the upstream has no name for the model that
// the agent asks for: "" is the agent's own choice, which its version decides.
// An upstream that maps no models is asked for the agent's names, as the
// vendor's API is; Bedrock has others for all.
func (e Entry) CheckModel(model string) error {
	if len(e.Models) == 0 && (e.Kind != Bedrock || strings.Contains(model, ".")) || e.Models[AnyModel] != "" {
		return nil
	}
	field := "upstreams." + e.Name + ".models"
	unmapped := func(what, hint string) error {
		return &dreamcore.Error{Code: dreamcore.CodeSetup, Message: field + " has no line for " + what, Hint: hint}
	}
	const anyLine = `give it a line "*": NAME for every other model`
	switch {
	case model == "" && len(e.Models) > 0:
		return unmapped("the model that the agent chooses itself", "set model to one of its lines ("+strings.Join(sortedKeys(e.Models), ", ")+"), or "+anyLine)
	case model == "":
		return unmapped("the model that the agent chooses itself", anyLine)
	case slices.Contains(aliases, model):
		return unmapped("the name that the agent makes of "+model, "set model to a full name that has a line, or "+anyLine)
	case e.Models[model] == "":
		return unmapped("the model "+model, "add "+model+": NAME to it, or "+anyLine)
	}
	return nil
}

// Cloud reports whether the upstream takes less than the vendor's newest API.
func (e Entry) Cloud() bool { return e.Kind == Bedrock || e.Kind == Vertex }

// mend is the command that replaces the upstream's credential.
func (e Entry) mend() string {
	create := func(ref, key string) string {
		name, own, ok := strings.Cut(ref, "/")
		if ok {
			key = own
		}
		if name == secret.AnthropicSecret {
			return "dreamcore setup --rotate " + name
		}
		return "dreamcore secret create " + name + " " + key + "=- --force < FILE"
	}
	switch {
	case e.Kind == Vertex:
		return create(e.ServiceAccount, "JSON")
	case e.AWSFile != "":
		return "aws configure --profile " + cmp.Or(e.AWSProfile, defaultProfile)
	case e.Kind == Bedrock:
		name, _, _ := strings.Cut(e.AWSCredentials, "/")
		return "dreamcore secret create " + name + " AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=- --force < FILE"
	case e.APIKey == NoKey:
		return "dreamcore doctor"
	}
	return create(cmp.Or(e.APIKey, e.Bearer), "KEY")
}

package client

import (
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// Names of the endpoints of the contract, for Endpoint.URL.
const (
	NameHealth        = "health"
	NameGenerateGame  = "generate_game"
	NameTestSandboxIO = "test_sandbox_io"
	NameTestGVisor    = "test_gvisor"
	NameTestStream    = "test_stream"
	NameTestVolume    = "test_volume"
	NameTestAuth      = "test_auth"
	NameTestDeep      = "test_deep"
	NameGetFile       = "get_file"
	NameListFiles     = "list_files"
	NamePreviewLink   = "preview_link"
	NameJobs          = "jobs"
	NameThumbnail     = "thumbnail"
	NameCheckGame     = "check_game"
)

// endpointNames are the endpoints that an address may name, with those that the
// client does not call.
var endpointNames = []string{
	NameHealth, NameGenerateGame, NameTestSandboxIO, NameTestGVisor, NameTestStream, NameTestVolume,
	NameTestAuth, NameTestDeep, "prewarm_sandbox", NameGetFile, NameListFiles, "apply_files", "get_skill_content",
	NamePreviewLink,
}

const (
	// modalDomain is appended to a base that consists of a label only.
	modalDomain = ".modal.run"
	// maxAddress bounds the text of an address, in bytes.
	maxAddress = 2048
)

// Endpoint is the address of a server, from which the addresses of its endpoints
// are derived. The zero value is not valid; use ParseEndpoint. Endpoints may be
// compared with ==.
type Endpoint struct {
	scheme string // "http" or "https"

	// In the host form every endpoint has its own host: label-NAME + rest,
	// where rest is the domain with its dot and the port. label may be "".
	byHost bool
	label  string
	rest   string

	// In the path form every endpoint is a path below address + prefix.
	address string // host and port
	prefix  string // "" or "/…" without a slash at the end, percent-encoded
	dashes  bool   // names are spelled with dashes, as in the parsed address
}

// ParseEndpoint parses an address in any form of the contract:
//
//	http://host:8080, https://host/prefix     paths below it
//	https://acme--dreamcore                   the base of a backend on Modal
//	https://acme--dreamcore-generate-game.modal.run, http://host:8080/generate_game
//	                                          the full address of any endpoint
//
// The error is an Error with CodeInvalid whose hint lists these forms.
func ParseEndpoint(s string) (Endpoint, error) {
	s = strings.TrimSpace(s)
	u, fault := splitAddress(s)
	if fault != "" {
		return Endpoint{}, badAddress(s, fault)
	}
	segments, fault := pathSegments(u)
	if fault != "" {
		return Endpoint{}, badAddress(s, fault)
	}
	host := strings.ToLower(u.Host)
	if n := len(segments); n > 0 {
		e := Endpoint{scheme: u.Scheme, address: host}
		if _, dashes, ok := endpointName(segments[n-1]); ok {
			segments, e.dashes = segments[:n-1], dashes
		} else if _, _, ok := hostForm(u, host); ok {
			return Endpoint{}, badAddress(s, "its host already names an endpoint, so it takes no path")
		}
		for _, segment := range segments {
			e.prefix += "/" + segment
		}
		return e, nil
	}
	if label, rest, ok := hostForm(u, host); ok {
		return Endpoint{scheme: u.Scheme, byHost: true, label: label, rest: rest}, nil
	}
	return Endpoint{scheme: u.Scheme, address: host}, nil
}

// URL returns the address of the endpoint called name, spelled with
// underscores, such as "test_sandbox_io". NameJobs and names with slashes are paths
// of the server; in the host form it is served by every host, so that of generate_game
// is used.
func (e Endpoint) URL(name string) string {
	if name == NameJobs || strings.Contains(name, "/") {
		if e.byHost {
			return e.URL(NameGenerateGame) + name
		}
		return e.base() + "/" + name
	}
	dashed := strings.ReplaceAll(name, "_", "-")
	if e.byHost {
		label := dashed
		if e.label != "" {
			label = e.label + "-" + dashed
		}
		return e.scheme + "://" + label + e.rest + "/"
	}
	if e.dashes {
		name = dashed
	}
	return e.base() + "/" + name
}

// String returns the shortest address that ParseEndpoint parses into e.
func (e Endpoint) String() string {
	if e == (Endpoint{}) {
		return ""
	}
	if again, err := ParseEndpoint(e.base()); err == nil && again == e {
		return e.base()
	}
	return e.URL(NameGenerateGame)
}

func (e Endpoint) base() string {
	if e.byHost {
		return e.scheme + "://" + e.label + strings.TrimSuffix(e.rest, modalDomain)
	}
	return e.scheme + "://" + e.address + e.prefix
}

// host returns the host and port of the endpoint called name, for messages.
func (e Endpoint) host(name string) string {
	if e.byHost {
		return strings.TrimSuffix(strings.TrimPrefix(e.URL(name), e.scheme+"://"), "/")
	}
	return e.address
}

// splitAddress parses s as an absolute address of http or https. fault is "" if
// s is valid.
func splitAddress(s string) (u *url.URL, fault string) {
	if s == "" {
		return nil, "it is empty"
	}
	if len(s) > maxAddress {
		return nil, "it is too long"
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f }) || strings.Contains(s, `\`) {
		return nil, "it has characters that are not allowed in an address"
	}
	u, err := url.Parse(s)
	if err != nil {
		return nil, "it is not a URL"
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, "it must begin with http:// or https://"
	case u.User != nil:
		return nil, "it must not hold a user or a password"
	case strings.Contains(s, "?") || strings.Contains(s, "#"):
		return nil, "it must not hold a query or a fragment"
	case u.Opaque != "" || !validHost(u.Hostname()):
		return nil, "it has no valid host"
	case !validPort(u):
		return nil, "its port is not between 1 and 65535"
	}
	return u, ""
}

// validHost reports whether host is an IP address or a name of letters, digits,
// dashes, dots and underscores, which addresses on Modal have.
func validHost(host string) bool {
	if net.ParseIP(host) != nil {
		return true
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(host, "."), ".") {
		if label == "" || strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") {
			return false
		}
	}
	return !strings.ContainsFunc(host, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._", r))
	})
}

func validPort(u *url.URL) bool {
	port := u.Port()
	if port == "" {
		return !strings.HasSuffix(u.Host, ":")
	}
	n, err := strconv.Atoi(port)
	return err == nil && n >= 1 && n <= 65535
}

// pathSegments splits the encoded path at its slashes.
func pathSegments(u *url.URL) (segments []string, fault string) {
	path := strings.TrimSuffix(u.EscapedPath(), "/")
	if path == "" {
		return nil, ""
	}
	segments = strings.Split(strings.TrimPrefix(path, "/"), "/")
	for _, s := range segments {
		plain, err := url.PathUnescape(s)
		if err != nil || plain == "" || plain == "." || plain == ".." {
			return nil, "its path has an empty or a dotted part"
		}
	}
	return segments, ""
}

// endpointName reports whether s is the name of an endpoint, spelled with
// underscores or dashes.
func endpointName(s string) (name string, dashes, ok bool) {
	for _, name := range endpointNames {
		if s == name {
			return name, false, true
		}
		if s == strings.ReplaceAll(name, "_", "-") {
			return name, true, true
		}
	}
	return "", false, false
}

// hostForm splits host at the endpoint that its first label names, or at the
// end of the label of a base on Modal. ok is false for the host of a path form.
func hostForm(u *url.URL, host string) (label, rest string, ok bool) {
	if net.ParseIP(u.Hostname()) != nil {
		return "", "", false
	}
	name := strings.ToLower(u.Hostname())
	label, domain, dotted := strings.Cut(name, ".")
	modal := strings.Contains(label, "--")
	switch {
	case dotted:
		rest = "." + domain + strings.TrimPrefix(host, name)
	case modal && u.Port() == "":
		rest = modalDomain
	default:
		return "", "", false // a name of the local network
	}
	if base, found := cutEndpoint(label, modal); found {
		return base, rest, true
	}
	return label, rest, modal && rest == modalDomain
}

// cutEndpoint removes "-NAME" from the end of label. The single word "health"
// may be the end of an ordinary host name, so it is recognized in labels of
// Modal only.
func cutEndpoint(label string, modal bool) (base string, ok bool) {
	plain := strings.ReplaceAll(label, "_", "-")
	for _, name := range endpointNames {
		dashed := strings.ReplaceAll(name, "_", "-")
		if !modal && name == dashed {
			continue
		}
		if plain == dashed {
			return "", true
		}
		if strings.HasSuffix(plain, "-"+dashed) {
			base := label[:len(label)-len(dashed)-1]
			if base != "" && !strings.HasSuffix(base, "-") {
				return base, true
			}
		}
	}
	return "", false
}

func badAddress(s, fault string) error {
	shown := " "
	// A password in the address must not reach a log.
	if s != "" && len(s) <= 200 && !strings.Contains(s, "@") {
		shown = " " + strconv.Quote(term.Clean(s)) + " "
	}
	return &dreamcore.Error{
		Code:    dreamcore.CodeInvalid,
		Message: "the endpoint" + shown + "cannot be used: " + fault,
		Hint: "give a server (http://host:8080), a base (https://acme--dreamcore) " +
			"or the full address of an endpoint (https://acme--dreamcore-generate-game.modal.run, http://host:8080/generate_game)",
	}
}

// maxSecretBytes bounds the size of a secret from a file.
const maxSecretBytes = 64 << 10

// ReadSecret reads the internal secret of a server from a file.
func ReadSecret(file string) (string, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return "", &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Reason: ReasonSecretFile, Message: "the secret file cannot be read", Err: err,
		}
	}
	value := strings.TrimSpace(string(raw))
	if value == "" || len(value) > maxSecretBytes {
		return "", &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Reason: ReasonNoSecret, Message: "the secret file contains no secret",
		}
	}
	return value, nil
}

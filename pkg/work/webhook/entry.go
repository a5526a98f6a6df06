package webhook

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
)

// MaxEntries bounds the configured endpoints: each host of them has its workers.
const MaxEntries = 32

// maxURL bounds an address, in bytes.
const maxURL = 2048

// Entry is the configuration of one endpoint.
type Entry struct {
	URL    string   `koanf:"url"`
	Events []string `koanf:"events"` // empty for all
	Secret string   `koanf:"secret"` // NAME or NAME/KEY of a sealed secret
	// PerRequest makes the entry a permission: clients may name addresses at the
	// host of URL in their requests. URL itself gets nothing.
	PerRequest bool `koanf:"per_request"`
	// Private allows addresses of a private network or of this machine, and http.
	Private bool `koanf:"private"`
}

// Events returns the types of events.
func Events() []string { return []string{JobSucceeded, JobFailed, JobCancelled} }

// Faults returns the errors of the whole list, each with the field and how to
// correct it. They do not quote addresses, which may contain credentials.
func Faults(list []Entry) (faults []string) {
	if len(list) > MaxEntries {
		faults = append(faults, fmt.Sprintf("webhooks: at most %d are possible", MaxEntries))
	}
	type use struct {
		url     string
		request bool
	}
	seen := map[use]bool{}
	for i, e := range list {
		at := fmt.Sprintf("webhooks[%d].", i)
		for _, f := range e.faults() {
			faults = append(faults, at+f)
		}
		id := use{e.URL, e.PerRequest}
		if u, err := parseURL(e.URL); err == nil && e.PerRequest {
			id.url = origin(u)
		}
		if seen[id] {
			faults = append(faults, at+"url: is used by two webhooks")
		}
		seen[id] = true
	}
	return faults
}

func (e Entry) faults() (faults []string) {
	if u, err := parseURL(e.URL); err != nil {
		faults = append(faults, "url: "+err.Error())
	} else if u.Scheme != "https" && !e.Private {
		faults = append(faults, "url: must begin with https:// (http is possible with private: true)")
	}
	for _, event := range e.Events {
		if !slices.Contains(Events(), event) {
			faults = append(faults, fmt.Sprintf("events: %q must be one of %s", event, strings.Join(Events(), ", ")))
		}
	}
	if name, _, _ := strings.Cut(e.Secret, "/"); secret.CheckName(name) != nil {
		faults = append(faults, fmt.Sprintf("secret: %q must be the NAME or NAME/KEY of a sealed secret with the signing key", e.Secret))
	}
	return faults
}

// parseURL parses the address of an endpoint. The error does not quote it.
func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case len(s) > maxURL:
		return nil, fmt.Errorf("it is longer than %d bytes", maxURL)
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "":
		return nil, errors.New("it must be an https address")
	case u.User != nil || u.Fragment != "":
		return nil, errors.New("it must have no user, password or fragment")
	}
	return u, nil
}

// recipients returns the addresses that an event goes to.
func recipients(entries []Entry, e Event) (urls []string) {
	for _, entry := range entries {
		if !entry.PerRequest && entry.wants(e.Type) {
			urls = append(urls, entry.URL)
		}
	}
	if e.URL == "" || slices.Contains(urls, e.URL) {
		return urls
	}
	if u, err := parseURL(e.URL); err == nil {
		if entry := findRequested(entries, u); entry != nil && entry.wants(e.Type) {
			urls = append(urls, e.URL)
		}
	}
	return urls
}

func (e Entry) wants(event string) bool {
	return len(e.Events) == 0 || slices.Contains(e.Events, event)
}

// find returns the entry for a message to an address, or nil.
func find(entries []Entry, address string) *Entry {
	for i, e := range entries {
		if !e.PerRequest && e.URL == address {
			return &entries[i]
		}
	}
	u, err := parseURL(address)
	if err != nil {
		return nil
	}
	return findRequested(entries, u)
}

// findRequested returns the entry that lets clients name an address, or nil.
func findRequested(entries []Entry, u *url.URL) *Entry {
	for i, e := range entries {
		if allowed, err := parseURL(e.URL); e.PerRequest && err == nil && origin(allowed) == origin(u) {
			return &entries[i]
		}
	}
	return nil
}

// Bounds of a signing key, in bytes; the specification has the same.
const (
	minKey = 24
	maxKey = 64
)

// CheckKey returns an error with CodeInvalid unless key is a signing key of the
// specification. The error does not quote it.
func CheckKey(key string) error {
	rest, ok := strings.CutPrefix(key, "whsec_")
	raw, err := base64.StdEncoding.DecodeString(rest)
	if ok && err == nil && len(raw) >= minKey && len(raw) <= maxKey {
		return nil
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeInvalid, Message: fmt.Sprintf("the signing key of a webhook must be whsec_ and the base64 of %d to %d bytes", minKey, maxKey),
		Hint: `make one with: echo "whsec_$(openssl rand -base64 32)"`,
	}
}

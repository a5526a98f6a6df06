package webhook

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestFaultsOfEndpoints(t *testing.T) {
	good := Entry{URL: "https://app.example.com/hook?token=t0ken", Secret: "hook"}
	with := func(change func(*Entry)) []Entry {
		e := good
		change(&e)
		return []Entry{e}
	}
	for _, test := range []struct {
		name string
		list []Entry
		says string // "" if there is no fault
	}{
		{"none", nil, ""},
		{"good", []Entry{good}, ""},
		{"a key of the secret", with(func(e *Entry) { e.Secret = "hook/KEY" }), ""},
		{"http to a private host", with(func(e *Entry) { e.URL, e.Private = "http://10.0.0.5:8080/x", true }), ""},
		{"all events", with(func(e *Entry) { e.Events = Events() }), ""},
		{"the same host for requests", append(with(func(e *Entry) { e.PerRequest = true }), good), ""},
		{"http", with(func(e *Entry) { e.URL = "http://app.example.com" }), "webhooks[0].url: must begin with https"},
		{"no address", with(func(e *Entry) { e.URL = "" }), "webhooks[0].url: it must be an https address"},
		{"another scheme", with(func(e *Entry) { e.URL = "file:///etc/passwd" }), "https address"},
		{"a password", with(func(e *Entry) { e.URL = "https://u:t0ken@app.example.com" }), "no user"},
		{"a fragment", with(func(e *Entry) { e.URL = "https://app.example.com/#x" }), "fragment"},
		{"long", with(func(e *Entry) { e.URL += strings.Repeat("x", maxURL) }), "longer than"},
		{"unknown event", with(func(e *Entry) { e.Events = []string{"job.done"} }), `events: "job.done" must be one of job.succeeded`},
		{"no secret", with(func(e *Entry) { e.Secret = "" }), "secret:"},
		{"a key in place of its name", with(func(e *Entry) { e.Secret = "whsec_X" }), "secret:"},
		{"twice", []Entry{good, good}, "webhooks[1].url: is used by two"},
		{"twice for requests", []Entry{
			{URL: "https://app.example.com/a", Secret: "a", PerRequest: true}, {URL: "https://app.example.com:443/b", Secret: "b", PerRequest: true},
		}, "webhooks[1].url: is used by two"},
		{"too many", make([]Entry, MaxEntries+1), "at most 32"},
	} {
		faults := strings.Join(Faults(test.list), "; ")
		if (faults == "") != (test.says == "") || !strings.Contains(faults, test.says) || strings.Contains(faults, "t0ken") {
			t.Errorf("%s: %q, want %q", test.name, faults, test.says)
		}
	}
}

func TestClientsNameAddressesAtConfiguredHostsOnly(t *testing.T) {
	s := open(t, Options{Entries: []Entry{
		{URL: "https://app.example.com/base", Secret: "a", PerRequest: true},
		{URL: "https://other.example.com/hook", Secret: "a"},
		{URL: "http://10.0.0.5:8080", Secret: "a", PerRequest: true, Private: true},
	}})
	for address, allowed := range map[string]bool{
		"https://app.example.com/any?x=y":        true,
		"https://APP.example.com:443/any":        true,
		"http://10.0.0.5:8080/x":                 true,
		"http://app.example.com/any":             false,
		"https://app.example.com:8443/any":       false,
		"https://app.example.com.evil.example/":  false,
		"https://app.example.com@evil.example/":  false,
		"https://evil.example/app.example.com":   false,
		"https://other.example.com/hook":         false,
		"https://10.0.0.5:8080/x":                false,
		"//app.example.com/x":                    false,
		"app.example.com":                        false,
		"https://app.example.com/\x00":           false,
		"https://app.example.com\\@evil.example": false,
		"":                                       false,
	} {
		if err := s.CheckURL(address); (err == nil) != allowed || err != nil && dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
			t.Errorf("%q: %v", address, err)
		}
	}
}

func TestSigningKeys(t *testing.T) {
	encoded := func(n int) string { return base64.StdEncoding.EncodeToString(make([]byte, n)) }
	for key, ok := range map[string]bool{
		key1: true, key2: true, "whsec_" + encoded(24): true, "whsec_" + encoded(64): true,
		"": false, "whsec_": false, "whsec_" + encoded(23): false, "whsec_" + encoded(65): false,
		encoded(32): false, "whsec_" + strings.Repeat("!", 40): false,
	} {
		if err := CheckKey(key); (err == nil) != ok || err != nil && len(key) > 8 && strings.Contains(err.Error()+dreamcore.HintOf(err), key) {
			t.Errorf("%q: %v", key, err)
		}
	}
}

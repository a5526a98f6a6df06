package config

import "testing"

func TestPreviewSourcesCannotInjectHeaders(t *testing.T) {
	for s, want := range map[string]bool{
		"cdn.example.com": true, "https://cdn.example.com": true, "*.example.com": true, "wss://a.b:8443": true, "http://127.0.0.1:8080": true, "localhost:3000": true,
		"a.b; script-src *": false, "a.b;": false, "a.b, *": false, "a.b\r\nX: y": false, "a.b 'self'": false, "*": false, "*.": false, "a.b/x": false, "a.b?x": false,
		"a.b#x": false, "//a.b": false, "https://": false, "https:///": false, "data:": false, "a.b:": false, "a.b:99999": false, "*.*.a": false, "ä.b": false, "A.b": false,
	} {
		if got := isSource(s, "https", "http", "wss", "ws"); got != want {
			t.Errorf("%q: %v", s, got)
		}
	}
}

func TestPreviewDomainIsParsed(t *testing.T) {
	for s, want := range map[string]PreviewDomain{
		"games.example.com":           {"https", "games.example.com", ""},
		"games.example.com:8443":      {"https", "games.example.com", "8443"},
		"http://games.internal:8080":  {"http", "games.internal", "8080"},
		"https://preview.example.com": {"https", "preview.example.com", ""},
		"localhost":                   {"http", "localhost", ""},
		"localhost:8080":              {"http", "localhost", "8080"},
		"https://localhost":           {"https", "localhost", ""},
	} {
		if got, ok := (Config{PreviewDomain: s}).Domain(); !ok || got != want {
			t.Errorf("%s: %+v %v", s, got, ok)
		}
	}
	for _, s := range []string{"", PreviewOff} {
		if got, ok := (Config{PreviewDomain: s}).Domain(); ok {
			t.Errorf("%q is %+v", s, got)
		}
	}
}

package client

import (
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestEveryFormOfAnAddressGivesEveryEndpoint(t *testing.T) {
	const (
		pathForm  = "http://host:8080/test_sandbox_io"
		dashForm  = "http://host:8080/test-sandbox-io"
		modalForm = "https://acme--dreamcore-test-sandbox-io.modal.run/"
	)
	for _, tt := range []struct{ in, io, health, short string }{
		{"http://host:8080", pathForm, "http://host:8080/health", "http://host:8080"},
		{" http://HOST:8080/ \n", pathForm, "http://host:8080/health", "http://host:8080"},
		{"http://host:8080/generate_game", pathForm, "http://host:8080/health", "http://host:8080"},
		{"http://host:8080/generate_game/", pathForm, "http://host:8080/health", "http://host:8080"},
		{"http://host:8080/health", pathForm, "http://host:8080/health", "http://host:8080"},
		{"http://host:8080/generate-game", dashForm, "http://host:8080/health", "http://host:8080/generate-game"},
		{"https://example.com/a%20b/v1", "https://example.com/a%20b/v1/test_sandbox_io", "https://example.com/a%20b/v1/health", "https://example.com/a%20b/v1"},
		{"https://example.com/v1/get_file", "https://example.com/v1/test_sandbox_io", "https://example.com/v1/health", "https://example.com/v1"},
		{"https://example.com/health/test_auth", "https://example.com/health/test_sandbox_io", "https://example.com/health/health", "https://example.com/health/generate_game"},
		{"http://[::1]:8080", "http://[::1]:8080/test_sandbox_io", "http://[::1]:8080/health", "http://[::1]:8080"},
		{"http://127.0.0.1:1", "http://127.0.0.1:1/test_sandbox_io", "http://127.0.0.1:1/health", "http://127.0.0.1:1"},
		{"http://my--service:8080", "http://my--service:8080/test_sandbox_io", "http://my--service:8080/health", "http://my--service:8080"},
		{"http://test-stream:8080", "http://test-stream:8080/test_sandbox_io", "http://test-stream:8080/health", "http://test-stream:8080"},
		{"https://my-health.example.com", "https://my-health.example.com/test_sandbox_io", "https://my-health.example.com/health", "https://my-health.example.com"},

		{"https://acme--dreamcore", modalForm, "https://acme--dreamcore-health.modal.run/", "https://acme--dreamcore"},
		{"https://acme--dreamcore/", modalForm, "https://acme--dreamcore-health.modal.run/", "https://acme--dreamcore"},
		{"https://acme--dreamcore.modal.run", modalForm, "https://acme--dreamcore-health.modal.run/", "https://acme--dreamcore"},
		{"https://acme--dreamcore-generate-game", modalForm, "https://acme--dreamcore-health.modal.run/", "https://acme--dreamcore"},
		{"https://acme--dreamcore-generate-game.modal.run", modalForm, "https://acme--dreamcore-health.modal.run/", "https://acme--dreamcore"},
		{"https://acme--dreamcore-generate_game.modal.run/", modalForm, "https://acme--dreamcore-health.modal.run/", "https://acme--dreamcore"},
		{"https://acme--dreamcore-health.modal.run", modalForm, "https://acme--dreamcore-health.modal.run/", "https://acme--dreamcore"},
		{"https://acme--dreamcore-test-stream.example.com", "https://acme--dreamcore-test-sandbox-io.example.com/", "https://acme--dreamcore-health.example.com/", "https://acme--dreamcore-generate-game.example.com/"},
		{"http://acme--dreamcore-test-auth.localhost:8080/", "http://acme--dreamcore-test-sandbox-io.localhost:8080/", "http://acme--dreamcore-health.localhost:8080/", "http://acme--dreamcore-generate-game.localhost:8080/"},
		{"https://generate-game.example.com", "https://test-sandbox-io.example.com/", "https://health.example.com/", "https://generate-game.example.com/"},
	} {
		t.Run(tt.in, func(t *testing.T) {
			e, err := ParseEndpoint(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if got := e.URL(NameTestSandboxIO); got != tt.io {
				t.Errorf("test_sandbox_io is at %s, want %s", got, tt.io)
			}
			if got := e.URL(NameHealth); got != tt.health {
				t.Errorf("health is at %s, want %s", got, tt.health)
			}
			if got := e.String(); got != tt.short {
				t.Errorf("String is %s, want %s", got, tt.short)
			}
			// The address of any endpoint parses into the same Endpoint.
			for _, name := range endpointNames {
				back, err := ParseEndpoint(e.URL(name))
				if err != nil || back.URL(NameTestVolume) == "" || name != NameHealth && back != e {
					t.Errorf("%s leads to %+v, %v; want %+v", e.URL(name), back, err, e)
				}
			}
		})
	}
}

func TestBadAddressesAreRefusedWithTheValidForms(t *testing.T) {
	for _, in := range []string{
		"", " ", "host:8080", "localhost", "ftp://host", "http://", "http:///x", "http://:8080", "http:host",
		"http://host:0", "http://host:65536", "http://host:x", "http://host:", "http://ho st", "http://host/a b",
		"http://host/../x", "http://host/%2e%2e/x", "http://host//x", "http://host?x=1", "http://host/#", "http://host?",
		"http://user:hunter2@host", "http://-host", "http://a..b", "http://ho\x00st", "http://host/\x1b[31m", `http://host\@evil`,
		"http://日本", "http://%41", "https://acme--dreamcore-generate-game.modal.run/prefix", "http://" + strings.Repeat("a", 5000),
	} {
		_, err := ParseEndpoint(in)
		if dreamcore.CodeOf(err) != dreamcore.CodeInvalid || err == nil {
			t.Errorf("ParseEndpoint(%q) = %v, want an Error with CodeInvalid", in, err)
			continue
		}
		if !strings.Contains(dreamcore.HintOf(err), "https://acme--dreamcore") {
			t.Errorf("ParseEndpoint(%q): the hint names no forms: %q", in, dreamcore.HintOf(err))
		}
		if len(err.Error()) > 400 || strings.Contains(err.Error(), "hunter2") || strings.ContainsAny(err.Error(), "\x00\x1b") {
			t.Errorf("ParseEndpoint(%q): the error is not fit to print: %q", in, err)
		}
	}
	if got := (Endpoint{}).String(); got != "" {
		t.Errorf("the zero Endpoint is %q", got)
	}
}

func FuzzParseEndpoint(f *testing.F) {
	for _, s := range []string{
		"http://host:8080", "http://host:8080/generate_game", "https://acme--dreamcore", "https://acme--dreamcore-generate-game.modal.run",
		"http://[::1]:80/x", "https://a--b-health.modal.run/", "http://x-test-auth.y:1/test-auth", "http://a/%2e/", "https://a--b-health-health", "//x", "http://host./",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e, err := ParseEndpoint(s)
		if err != nil {
			if dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
				t.Fatalf("ParseEndpoint(%q): %v", s, err)
			}
			return
		}
		if again, err := ParseEndpoint(e.String()); err != nil || again != e {
			t.Fatalf("ParseEndpoint(%q) = %+v, but of its String %q %+v, %v", s, e, e.String(), again, err)
		}
		var origins []string
		for _, name := range endpointNames {
			u, err := url.Parse(e.URL(name))
			if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
				t.Fatalf("ParseEndpoint(%q).URL(%q) = %q: %v", s, name, e.URL(name), err)
			}
			origins = append(origins, origin(u))
		}
		slices.Sort(origins)
		if n := len(slices.Compact(origins)); n != 1 && n != len(endpointNames) {
			t.Fatalf("ParseEndpoint(%q) leads to %d hosts", s, n)
		}
	})
}

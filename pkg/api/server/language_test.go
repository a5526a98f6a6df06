package server

import (
	"net/http"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestPreferredLanguage(t *testing.T) {
	tests := []struct {
		header string
		want   dreamcore.Language // with Japanese as the default
	}{
		{"", "ja"},
		{"en", "en"},
		{"EN-us", "en"},
		{"ja-JP", "ja"},
		{"en-US,en;q=0.9,ja;q=0.8", "en"},
		{"ja;q=0.5, en;q=0.8", "en"},
		{"ja;q=0.8, en;q=0.5", "ja"},
		{"en;q=0", "ja"},
		{"fr-FR, en;q=0.1", "en"},
		{"fr", "ja"},
		{"*", "ja"},
		{"*;q=0.2, en;q=0.1", "ja"},
		{"*;q=0.1, en;q=0.2", "en"},
		{"en;q=nan", "ja"},
		{"en;q=7", "ja"},
		{"en;q=-1", "ja"},
		{"en;level=1", "ja"},
		{"english", "ja"},
		{" en ; q=1 ", "en"},
		{",,;;=,en", "en"},
		{strings.Repeat("fr,", 400) + "en", "ja"}, // beyond the parsed part
	}
	for _, tt := range tests {
		if got := preferredLanguage(tt.header, dreamcore.Japanese); got != tt.want {
			t.Errorf("%q: got %s", tt.header, got)
		}
	}
}

func TestClientLanguageReachesTheGenerator(t *testing.T) {
	sv := start(t, options{config: func(c *Config) { c.DefaultLanguage = dreamcore.Japanese }})
	for _, header := range [][]string{nil, {"en"}, {"fr", "en;q=0.5"}} {
		req := sv.request(http.MethodPost, "/generate_game", generateBody)
		req.Header["Accept-Language"] = header
		sv.do(req)
	}
	want := []dreamcore.Language{"ja", "en", "en"}
	for i, got := range sv.generator.langs {
		if got != want[i] {
			t.Errorf("request %d: got %s", i, got)
		}
	}
}

func FuzzPreferredLanguage(f *testing.F) {
	for _, s := range []string{"", "ja", "en;q=0.5,ja", "*", ";;q=", "en;q=1e-999", "\x00,\xff", strings.Repeat(",", 2000)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, header string) {
		if got := preferredLanguage(header, dreamcore.English); got != dreamcore.English && got != dreamcore.Japanese {
			t.Errorf("%q gives %q", header, got)
		}
	})
}

package preview

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestOwnersOfGamesAreFound(t *testing.T) {
	const user, project = dreamcore.UserID("a11ce000-0000-4000-8000-000000000001"), dreamcore.ProjectID("123e4567-e89b-42d3-a456-426614174000")
	key := strings.Repeat("k", minKey)
	place := Place{Scheme: "https", Host: "games.example.com"}
	o, err := NewOwners(place, key)
	if err != nil {
		t.Fatal(err)
	}
	seal := func(s sealer, sc scope, expires time.Time) string {
		t.Helper()
		token, err := s.seal(sc, grant{user, project, expires})
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	other, err := newSealer(strings.Repeat("o", minKey))
	if err != nil {
		t.Fatal(err)
	}
	mine, soon, past := o.service.sealer, time.Now().Add(time.Hour), time.Now().Add(-time.Second)
	host := mine.label(user, project) + ".games.example.com"
	foreign := mine.label(user, "00000000-0000-4000-8000-000000000000") + ".games.example.com"
	for name, tt := range map[string]struct {
		host, token, cookie string
		want                bool
	}{
		"a link":                    {host, seal(mine, scopeLink, soon), "", true},
		"a cookie":                  {strings.ToUpper(host) + ":443", "", seal(mine, scopeCookie, soon), true},
		"a link that has expired":   {host, seal(mine, scopeLink, past), "", false},
		"a bad link hides a cookie": {host, "x", seal(mine, scopeCookie, soon), false}, // as in the service
		"a cookie as a link":        {host, seal(mine, scopeCookie, soon), "", false},
		"a link as a cookie":        {host, "", seal(mine, scopeLink, soon), false},
		"a key of another operator": {host, seal(other, scopeLink, soon), "", false},
		"the host of another game":  {foreign, seal(mine, scopeLink, soon), "", false},
		"a host that is no label":   {"x.games.example.com", seal(mine, scopeLink, soon), "", false},
		"nothing":                   {host, "", "", false},
		"a token that is very long": {host, strings.Repeat("A", 1<<16), "", false},
	} {
		r := httptest.NewRequest(http.MethodGet, "/x", nil)
		r.Host = tt.host
		if tt.token != "" {
			r.URL.RawQuery = tokenParameter + "=" + tt.token
		}
		if tt.cookie != "" {
			r.AddCookie(&http.Cookie{Name: securePrefix + cookieName, Value: tt.cookie})
		}
		got, ok := o.User(r)
		if ok != tt.want || ok && got != user {
			t.Errorf("%s: %s, %v", name, got, ok)
		}
		if !o.Serves(tt.host) {
			t.Errorf("%s is not a host of games", tt.host)
		}
	}
	if o.Serves("example.com") {
		t.Error("example.com is a host of games")
	}
	if _, err := NewOwners(place, "short"); dreamcore.ReasonOf(err) != ReasonKey {
		t.Errorf("%v", err)
	}
}

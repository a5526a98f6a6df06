package preview

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// bomb is a game that sets many cookies for all games in the browser.
const bomb = `<!doctype html><script>
for (let i = 0; i < 170; i++) document.cookie = 'c' + i + '=' + 'x'.repeat(3500) + '; domain=games.test; path=/; max-age=31536000';
document.cookie = 'own=1';
window.results = {};</script>`

func TestCookiesOfOneGameDoNotBlockOthers(t *testing.T) {
	st := open(t, Place{Scheme: "http", Host: "games.test"})
	st.write(gameA, map[string]string{"index.html": bomb})
	st.write(gameB, map[string]string{"index.html": `<!doctype html><title>fine</title><script>window.results = {cookies: String(document.cookie.length)}</script>`})
	p := openTab(t, browser(t))
	p.visit(st.link(gameA).String())
	p.results()
	if n := eval[int](p, `document.cookie.length`); n < 300<<10 {
		t.Fatalf("the browser kept only %d bytes of cookies", n)
	}
	// Each response expires some.
	left := ""
	for range 8 {
		p.visit(st.link(gameB).String())
		if title := eval[string](p, `document.title`); title != "fine" {
			t.Fatalf("title of the other game: %q", title)
		}
		left = p.results()["cookies"]
	}
	var n int
	if _, err := fmt.Sscan(left, &n); err != nil || n > foreignBytes {
		t.Errorf("%s bytes of cookies are left", left)
	}
}

func TestForeignCookiesAreExpired(t *testing.T) {
	st := open(t, Place{Scheme: "http", Host: "games.test"})
	st.write(gameA, map[string]string{"index.html": "x"})
	ask := func(target string, cookies ...string) *http.Response {
		r := httptest.NewRequest(http.MethodGet, target, nil)
		r.Host = st.link(gameA).Host
		r.Header.Set("Cookie", strings.Join(cookies, "; "))
		w := httptest.NewRecorder()
		st.service.ServeHTTP(w, r)
		return w.Result()
	}
	large := "x=" + strings.Repeat("x", foreignBytes)
	if got := ask("/", "x=1", cookieName+"=y").Cookies(); len(got) > 0 {
		t.Errorf("few cookies: %v", got)
	}
	got := ask("/a/b", large, cookieName+"=y", "z=1").Cookies()
	paths := map[string]bool{}
	for _, c := range got {
		paths[c.Name+c.Path] = true
		if c.Domain != "games.test" || c.MaxAge >= 0 || c.Name == cookieName {
			t.Errorf("%+v", c)
		}
	}
	for _, want := range []string{"x/", "x/a", "z/", "z/a"} {
		if !paths[want] {
			t.Errorf("%s stays: %v", want, got)
		}
	}
	many := []string{large}
	for i := range 1000 {
		many = append(many, fmt.Sprintf("n%d=1", i))
	}
	if got := ask("/", many...).Cookies(); len(got) < maxExpired/2 || len(got) > maxExpired {
		t.Errorf("%d cookies are taken away at once", len(got))
	}
	res := ask("/?preview_clear")
	if got := res.Header.Get("Clear-Site-Data"); res.StatusCode != http.StatusOK || got != `"cookies"` {
		t.Errorf("clear: %d, %q", res.StatusCode, got)
	}
}

package preview

import (
	"net/http"
	"path"
	"strings"
)

// Games of one domain are one site to browsers: any of them can set cookies for
// the parent domain, which browsers then send to all games. With many cookies,
// the headers of requests to other games become so large that servers refuse
// them. The service therefore accepts headers as large as browsers send, and
// expires such cookies.

const (
	// foreignBytes is the total size of foreign cookies above which a response
	// expires them.
	foreignBytes = 4 << 10
	// maxExpired bounds the cookies that one response expires, whose header must
	// pass proxies too.
	maxExpired = 60
	// clearParameter in the query makes the browser delete all cookies of the site.
	clearParameter = "preview_clear"
)

var pageCleared = notice{"The cookies are gone", "Cookies of this site are deleted in your browser, those of the games and of all that shares their domain. Open the link to the game again."}

// expireForeign expires cookies that games have set for the whole domain, if they
// are large. It keeps the service's own cookie and those that a game has set for
// its own host.
func (v *visit) expireForeign() {
	total := 0
	for _, line := range v.r.Header["Cookie"] {
		total += len(line)
	}
	if total <= foreignBytes {
		return
	}
	paths := []string{"/"}
	if dir := path.Dir(v.r.URL.Path); dir != "/" && dir != "." && !strings.ContainsAny(dir, ";\r\n") {
		paths = append(paths, dir)
	}
	sent := map[string]bool{v.s.cookieName(): true}
	for _, c := range v.r.Cookies() {
		if sent[c.Name] {
			continue
		}
		if sent[c.Name] = true; len(sent)*len(paths) > maxExpired {
			return // the next response continues
		}
		for _, p := range paths {
			http.SetCookie(v, &http.Cookie{Name: c.Name, Domain: v.s.cfg.Place.Host, Path: p, MaxAge: -1})
		}
	}
}

// clear makes the browser delete all cookies of the site, including those that
// expireForeign cannot expire, such as cookies of a parent domain.
func (v *visit) clear() {
	v.Header().Set("Clear-Site-Data", `"cookies"`)
	v.page(http.StatusOK, pageCleared)
}

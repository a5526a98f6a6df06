package preview

import (
	"net/http"
	"path"
	"strings"
)

// Games of one domain are one site to a browser: any of them can set cookies
// for the domain above them, which the browser then sends to all. A game that
// sets many makes the headers of requests for the others so large that servers
// refuse them. So much is read as browsers send at most, and such cookies are
// taken away again.

const (
	// foreignBytes is how much of other cookies a request may bring before they
	// are taken away.
	foreignBytes = 4 << 10
	// maxExpired bounds how many one answer takes away: its header must pass too.
	maxExpired = 60
	// clearParameter of the query has the browser forget all cookies of the site.
	clearParameter = "preview_clear"
)

var pageCleared = notice{"The cookies are gone", "Cookies of this site are deleted in your browser, those of the games and of all that shares their domain. Open the link to the game again."}

// expireForeign takes cookies away that games have set for the whole domain,
// when there are many. Those that a game has set for its own host stay, and so
// does ours.
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
			return // the next answer goes on
		}
		for _, p := range paths {
			http.SetCookie(v, &http.Cookie{Name: c.Name, Domain: v.s.cfg.Place.Host, Path: p, MaxAge: -1})
		}
	}
}

// clear has the browser forget all cookies of the site: the way out when
// expireForeign does not get them, such as those of a domain above.
func (v *visit) clear() {
	v.Header().Set("Clear-Site-Data", `"cookies"`)
	v.page(http.StatusOK, pageCleared)
}

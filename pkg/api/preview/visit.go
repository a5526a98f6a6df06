package preview

import (
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/system/response"
	"github.com/notef-neighbor/dreamcore/pkg/work/project"
)

// tokenParameter of the query carries the token of a link.
const tokenParameter = "preview_token"

// cookieName is the name of the cookie. Browsers accept its prefix only under
// https; it prevents other hosts of the domain from setting the cookie.
const (
	cookieName   = "dreamcore-preview"
	securePrefix = "__Host-"
)

// visit is one request and its response. It is also the ResponseWriter.
type visit struct {
	*response.Writer
	r   *http.Request
	s   *Service
	err error // internal error, for the log
}

// ServeHTTP implements http.Handler.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v := &visit{Writer: response.New(w, writeTimeout), r: r, s: s}
	if r.ContentLength != 0 {
		w.Header().Set("Connection", "close") // the body is not read
	}
	s.policy.headers(w.Header())
	if s.cfg.Place.Shared {
		v.shared()
	} else {
		v.own()
	}
	level := slog.LevelDebug
	attrs := []slog.Attr{slog.String("method", r.Method), slog.Int("status", v.Status()), slog.Int64("bytes", v.Bytes()), slog.Duration("duration", v.Duration())}
	if v.err != nil {
		level = slog.LevelError
		attrs = append(attrs, slog.Any("error", v.err))
	}
	s.cfg.Logger.LogAttrs(r.Context(), level, "preview", attrs...) // not the address, which may contain a token
}

// allowed refuses requests that no game needs.
func (v *visit) allowed() bool {
	switch {
	case v.r.Header.Get("Service-Worker") != "":
		// A service worker would persist and serve in place of later versions.
		v.page(http.StatusForbidden, pageRefused)
	case v.r.Method != http.MethodGet && v.r.Method != http.MethodHead:
		v.Header().Set("Allow", "GET, HEAD")
		v.page(http.StatusMethodNotAllowed, pageMethod)
	case !v.s.cfg.Place.Shared && v.foreign():
		v.page(http.StatusForbidden, pageRefused)
	default:
		return true
	}
	return false
}

// foreign reports whether a page of another origin loads something into itself.
// Games of one domain are one site to browsers, which therefore send the cookies
// of one game with requests by another, and only then check what may be read.
func (v *visit) foreign() bool {
	switch v.r.Header.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin":
		return false
	}
	return v.r.Header.Get("Sec-Fetch-Mode") != "navigate"
}

// own serves an origin of the game's own.
func (v *visit) own() {
	label, ok := v.s.label(v.r.Host)
	if !ok {
		v.page(http.StatusMisdirectedRequest, pageNoGame)
		return
	}
	if !v.allowed() {
		return
	}
	v.expireForeign()
	query := v.r.URL.Query()
	if query.Has(clearParameter) {
		v.clear()
		return
	}
	g, ok := v.s.admits(label, v.r)
	switch {
	case !ok:
		v.page(http.StatusUnauthorized, pageLink)
	case query.Has(tokenParameter):
		v.enter(g, query)
	default:
		v.show(g, "/", strings.TrimPrefix(v.r.URL.Path, "/"))
	}
}

// enter exchanges a link's token for a cookie and redirects to the address without
// the token.
func (v *visit) enter(g grant, query url.Values) {
	value, err := v.s.sealer.seal(scopeCookie, g)
	if err != nil {
		v.fail(err)
		return
	}
	c := &http.Cookie{
		Name: v.s.cookieName(), Value: value, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode,
		Expires: g.expires, Secure: v.s.secure(),
	}
	if c.Secure && v.r.Header.Get("Sec-Fetch-Dest") == "iframe" && v.r.Header.Get("Sec-Fetch-Site") == "cross-site" {
		// In a frame of another site, browsers keep only such cookies.
		c.SameSite, c.Partitioned = http.SameSiteNoneMode, true
	}
	http.SetCookie(v, c)
	query.Del(tokenParameter)
	v.redirect("/", strings.TrimLeft(v.r.URL.Path, "/"), query.Encode())
}

func (s *Service) secure() bool { return s.cfg.Place.Scheme == "https" }

func (s *Service) cookieName() string {
	if s.secure() {
		return securePrefix + cookieName
	}
	return cookieName
}

// shared serves the shared origin, in which the path contains the token.
func (v *visit) shared() {
	if !v.allowed() {
		return
	}
	token, name, below := strings.Cut(strings.TrimPrefix(v.r.URL.Path, "/"), "/")
	g, ok := v.s.sealer.open(scopePath, token, v.s.now())
	switch {
	case !ok:
		v.page(http.StatusUnauthorized, pageLink)
	case !below:
		v.redirect("/"+token+"/", "", v.r.URL.RawQuery)
	default:
		v.show(g, "/"+token+"/", name)
	}
}

// show serves a file of a game. base is the path of the game, name the path
// below it.
func (v *visit) show(g grant, base, name string) {
	p, err := v.s.cfg.Projects.Find(g.user, g.project)
	if err != nil {
		v.refuse(err, pageNoGame)
		return
	}
	defer p.Close()
	if hidden(name) {
		v.page(http.StatusNotFound, pageNotFound)
		return
	}
	directory := name == "" || strings.HasSuffix(name, "/")
	clean := strings.TrimPrefix(path.Clean("/"+name), "/")
	if directory {
		clean = path.Join(clean, project.IndexName)
	}
	file, err := project.Open(p, clean)
	if dreamcore.CodeOf(err) == dreamcore.CodeNotFound && v.elsewhere(p, base, clean, directory) {
		return
	}
	if err != nil {
		v.refuse(err, pageNotFound)
		return
	}
	defer file.Close()
	cache := "private, no-cache" // revalidated each time, and sent again only if changed
	if strings.HasPrefix(file.Kind, "text/html") {
		cache = "no-store"
	}
	v.Header().Set("Cache-Control", cache)
	file.Serve(v, v.r)
}

// elsewhere redirects from a missing file to its replacement: the index of a
// directory, or the first page of a game without index.html. It redirects so that
// relative addresses in the page work. It reports whether it has responded.
func (v *visit) elsewhere(p *volume.Project, base, name string, directory bool) bool {
	if !directory {
		file, err := project.Open(p, name+"/"+project.IndexName)
		if err == nil {
			_ = file.Close()
			v.redirect(base, name+"/", v.r.URL.RawQuery)
			return true
		}
	}
	if name != project.IndexName {
		return false
	}
	page, err := project.FirstPage(v.r.Context(), p)
	if err != nil {
		v.refuse(err, pageNoPage)
		return true
	}
	v.redirect(base, page, v.r.URL.RawQuery)
	return true
}

// hidden reports whether a name contains an element that begins with a dot, which
// games' files do not and steps out of the project do.
func hidden(name string) bool {
	for element := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(element, ".") {
			return true
		}
	}
	return false
}

// redirect redirects to a path on the same host. base begins with a single slash,
// so that the path cannot name another host.
func (v *visit) redirect(base, name, query string) {
	h := v.Header()
	h.Set("Cache-Control", "no-store")
	target := url.URL{Path: base + strings.TrimLeft(name, "/")}
	address := target.EscapedPath()
	if query != "" {
		address += "?" + query
	}
	h.Set("Location", address)
	v.WriteHeader(http.StatusSeeOther)
}

// refuse responds with the part of an error that a visitor may see.
func (v *visit) refuse(err error, missing notice) {
	switch code := dreamcore.CodeOf(err); {
	case code == dreamcore.CodeNotFound || code == dreamcore.CodeInvalid:
		v.page(http.StatusNotFound, missing)
	case errors.Is(err, v.r.Context().Err()) && v.r.Context().Err() != nil:
		v.page(http.StatusRequestTimeout, pageFault) // the visitor has disconnected
	default:
		v.fail(err)
	}
}

func (v *visit) fail(err error) {
	v.err = err
	v.page(http.StatusInternalServerError, pageFault)
}

func (v *visit) page(status int, n notice) { v.s.policy.page(v, v.r, status, n) }

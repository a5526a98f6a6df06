package preview

import (
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/work/project"
)

// tokenParameter of the query carries the token of a link.
const tokenParameter = "preview_token"

// cookieName is that of the cookie. With its prefix, which browsers accept
// under https only, no neighbour in the domain can plant one.
const (
	cookieName   = "dreamcore-preview"
	securePrefix = "__Host-"
)

// visit is one request with its answer. It is the ResponseWriter too.
type visit struct {
	http.ResponseWriter
	r       *http.Request
	s       *Service
	control *http.ResponseController
	status  int
	err     error // what went wrong on our side
}

// Unwrap lets http.ResponseController reach the connection.
func (v *visit) Unwrap() http.ResponseWriter { return v.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (v *visit) WriteHeader(status int) {
	if v.status == 0 {
		v.status = status
	}
	v.extendWrite()
	v.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter. A client that takes nothing for the
// whole of writeTimeout is dropped.
func (v *visit) Write(b []byte) (int, error) {
	if v.status == 0 {
		v.status = http.StatusOK
	}
	v.extendWrite()
	return v.ResponseWriter.Write(b)
}

func (v *visit) extendWrite() {
	_ = v.control.SetWriteDeadline(time.Now().Add(writeTimeout)) // not there without a connection
}

// ServeHTTP implements http.Handler.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	v := &visit{ResponseWriter: w, r: r, s: s, control: http.NewResponseController(w)}
	if r.ContentLength != 0 {
		w.Header().Set("Connection", "close") // nobody reads it
	}
	s.policy.headers(w.Header())
	if s.cfg.Place.Shared {
		v.shared()
	} else {
		v.own()
	}
	level := slog.LevelDebug
	attrs := []slog.Attr{slog.String("method", r.Method), slog.Int("status", v.status), slog.Duration("duration", time.Since(began))}
	if v.err != nil {
		level = slog.LevelError
		attrs = append(attrs, slog.Any("error", v.err))
	}
	s.log.LogAttrs(r.Context(), level, "preview", attrs...) // its address may hold a token
}

// allowed refuses what no game needs.
func (v *visit) allowed() bool {
	switch {
	case v.r.Header.Get("Service-Worker") != "":
		// It would stay in the browser, and answer for later versions.
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

// foreign tells whether a page of another origin asks for something to load
// into itself. Games of one domain are one site to a browser, so it sends them
// each other's cookies, and only then looks at what they may read.
func (v *visit) foreign() bool {
	switch v.r.Header.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin":
		return false
	}
	return v.r.Header.Get("Sec-Fetch-Mode") != "navigate"
}

// own answers under a host name of the game's own.
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
	if query.Has(tokenParameter) {
		v.enter(label, query)
		return
	}
	for _, c := range v.r.CookiesNamed(v.s.cookieName()) {
		if g, ok := v.s.sealer.open(scopeCookie, c.Value, v.s.now()); ok && v.s.sealer.owns(label, g) {
			v.show(g, "/", strings.TrimPrefix(v.r.URL.Path, "/"))
			return
		}
	}
	v.page(http.StatusUnauthorized, pageLink)
}

// enter takes a link's token for a cookie and the address without it.
func (v *visit) enter(label string, query url.Values) {
	g, ok := v.s.sealer.open(scopeLink, query.Get(tokenParameter), v.s.now())
	if !ok || !v.s.sealer.owns(label, g) {
		v.page(http.StatusUnauthorized, pageLink)
		return
	}
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
		// In a frame of another site, a browser keeps a cookie only so.
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

// shared answers in the origin of all games, where the path has the token.
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

// show answers with a file of a game. base is the path of the game, name what
// follows it.
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
	cache := "private, no-cache" // asked for again each time, and sent again only when changed
	if strings.HasPrefix(file.Kind, "text/html") {
		cache = "no-store"
	}
	v.Header().Set("Cache-Control", cache)
	file.Serve(v, v.r)
}

// elsewhere answers where a file that is not there has one that stands for it:
// a directory has its index, a game without index.html its first page. The
// browser is sent there, so that what it asks for next is found.
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

// hidden tells of names that are none of a game's files, and of forms that
// leave it.
func hidden(name string) bool {
	for element := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(element, ".") {
			return true
		}
	}
	return false
}

// redirect sends the browser to a path of the same host. base begins with its
// only slash, so that the path names no host.
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

// refuse answers with what a visitor may know of an error.
func (v *visit) refuse(err error, missing notice) {
	switch code := dreamcore.CodeOf(err); {
	case code == dreamcore.CodeNotFound || code == dreamcore.CodeInvalid:
		v.page(http.StatusNotFound, missing)
	case errors.Is(err, v.r.Context().Err()) && v.r.Context().Err() != nil:
		v.page(http.StatusRequestTimeout, pageFault) // nobody reads it
	default:
		v.fail(err)
	}
}

func (v *visit) fail(err error) {
	v.err = err
	v.page(http.StatusInternalServerError, pageFault)
}

func (v *visit) page(status int, n notice) { v.s.policy.page(v, v.r, status, n) }

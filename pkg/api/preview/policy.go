package preview

import (
	"fmt"
	"html"
	"net/http"
	"strings"
)

// policy holds the response headers for games.
type policy struct {
	game   string // content security policy of games' files
	own    string // content security policy of notices
	shared bool
}

// sandboxed lists what games may do in addition to drawing and sound. They may
// not navigate the surrounding or opening page, open windows or download. Forms
// are allowed for their submit event only; they cannot be sent.
const sandboxed = "sandbox allow-scripts allow-pointer-lock allow-modals allow-forms allow-orientation-lock"

func newPolicy(cfg Config) policy {
	hosts := ""
	if len(cfg.Hosts) > 0 {
		hosts = " " + strings.Join(cfg.Hosts, " ")
	}
	// In a shared origin no page may frame another: 'self' would include all games.
	ancestors := strings.Join(cfg.Ancestors, " ")
	sandbox := sandboxed
	if !cfg.Place.Shared {
		ancestors = strings.TrimSpace("'self' " + ancestors)
		sandbox += " allow-same-origin" // the game's own origin
	} else if ancestors == "" {
		ancestors = "'none'"
	}
	return policy{
		game: strings.Join([]string{
			"default-src 'self' blob: data:" + hosts,
			"script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:" + hosts,
			"style-src 'self' 'unsafe-inline' blob: data:" + hosts,
			"connect-src 'self' blob: data:" + hosts,
			"worker-src 'self' blob:",
			"frame-src 'self' blob: data:",
			"object-src 'none'",
			"base-uri 'self'",
			"form-action 'none'",
			"frame-ancestors " + ancestors,
			sandbox,
		}, "; "),
		own:    "default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'; frame-ancestors " + ancestors + "; sandbox",
		shared: cfg.Place.Shared,
	}
}

// permissions allow games to use the screen, controllers, tilt and sound. All
// other known browser features are off.
const permissions = "accelerometer=(self), autoplay=(self), fullscreen=(self), gamepad=(self), gyroscope=(self), " +
	"keyboard-map=(self), screen-wake-lock=(self), " +
	"browsing-topics=(), camera=(), clipboard-read=(), clipboard-write=(), display-capture=(), " +
	"encrypted-media=(), geolocation=(), hid=(), identity-credentials-get=(), idle-detection=(), local-fonts=(), " +
	"magnetometer=(), microphone=(), midi=(), otp-credentials=(), payment=(), picture-in-picture=(), " +
	"publickey-credentials-create=(), publickey-credentials-get=(), serial=(), storage-access=(), usb=(), " +
	"window-management=(), xr-spatial-tracking=()"

// headers sets the headers of every response. Games get no
// Cross-Origin-Opener-Policy: browsers refuse pages with both it and a sandbox,
// and the sandbox already separates a game from its opener.
func (p policy) headers(h http.Header) {
	h.Set("Content-Security-Policy", p.game)
	h.Set("Permissions-Policy", permissions)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-DNS-Prefetch-Control", "off")
	h.Set("X-Robots-Tag", "noindex, nofollow")
	if p.shared {
		// For a page of an opaque origin, its own files are cross-origin. Their
		// addresses contain the token.
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("Cross-Origin-Resource-Policy", "cross-origin")
		return
	}
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Origin-Agent-Cluster", "?1")
}

// notice is a page of the service itself, for visitors.
type notice struct{ title, text string }

var (
	pageLink      = notice{"This game needs a link", "Links to games expire. Ask the person who showed you this game for a new one. If you have just opened one, allow this page to set a cookie, and open it again."}
	pageNotFound  = notice{"There is nothing here", "The game has no such file."}
	pageNoGame    = notice{"There is no game here", "It may have been removed, or the address is wrong."}
	pageNoPage    = notice{"The game has no page yet", "It may still be in progress. Reload this page later."}
	pageRefused   = notice{"This is not allowed", "Pages of other sites cannot load parts of a game, and a game cannot install a service worker."}
	pageMethod    = notice{"This is not allowed", "Games are read-only."}
	pageFault     = notice{"This did not work", "An internal error occurred. Try again later."}
	pageElsewhere = notice{"There is no game here", "Games are served at another port of this host."}
)

const pageText = `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>%[1]s</title>
<style>body{font:1.1rem/1.5 system-ui,sans-serif;max-width:32rem;margin:20vh auto 0;padding:0 1rem;color-scheme:light dark}</style>
<h1>%[1]s</h1><p>%[2]s</p></html>
`

func (p policy) page(w http.ResponseWriter, r *http.Request, status int, n notice) {
	h := w.Header()
	p.headers(h)
	h.Set("Content-Security-Policy", p.own)
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = fmt.Fprintf(w, pageText, html.EscapeString(n.title), html.EscapeString(n.text)) // fails only if the visitor has gone
	}
}

package server

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Bounds of the lifetime of a link to the events of a job. It has to last until the
// end of the job, because browsers come back with the same link.
const (
	DefaultLinkLifetime = time.Hour
	MinLinkLifetime     = time.Minute
	MaxLinkLifetime     = 24 * time.Hour
)

// maxLinked bounds the streams of one job that are read with links at the same
// time: a link may get into many hands.
const maxLinked = 64

// ReasonLinkKey is the reason of an error of the key of links.
const ReasonLinkKey dreamcore.Reason = "server.link_key"

// minLinkKey is the minimum length of Config.LinkKey, in bytes.
const minLinkKey = 32

func checkLinkKey(key string) error {
	if key == "" || len(key) >= minLinkKey {
		return nil
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeSetup, Reason: ReasonLinkKey, Message: fmt.Sprintf("the key of links to jobs is shorter than %d characters", minLinkKey),
		Hint: "delete it to have a new one created",
	}
}

// jobLink returns a temporary address of the events of one job, for a browser that
// must not have the internal secret.
func (s *Server) jobLink(x *exchange, r *http.Request) {
	id, ok := x.jobID(r)
	if !ok {
		return
	}
	fields, ok := x.readMembers(r, "expires_in")
	if !ok {
		return
	}
	lifetime, err := linkLifetime(fields["expires_in"])
	if err == nil && s.cfg.LinkKey == "" {
		err = &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "Links to jobs are off"}
	}
	if err == nil {
		_, err = s.cfg.Jobs.Get(id)
		err = jobError(err)
	}
	if err != nil {
		x.fail(err)
		return
	}
	expires := time.Now().Add(lifetime).Truncate(time.Second)
	path := "/jobs/" + id + "/events?" + url.Values{tokenParameter: {s.linkToken(id, expires)}}.Encode()
	x.answer(http.StatusOK, struct {
		URL     string    `json:"url"`
		Path    string    `json:"path"`
		Expires time.Time `json:"expires"`
	}{schemeOf(r) + "://" + r.Host + path, path, expires.UTC()})
}

// linkLifetime returns the lifetime that a request names, or the default.
func linkLifetime(raw json.RawMessage) (time.Duration, error) {
	const hint = "use 60 to 86400, or leave it out for one hour"
	lifetime, err := seconds(raw, hint)
	switch {
	case err != nil:
		return 0, err
	case lifetime == 0:
		return DefaultLinkLifetime, nil
	case lifetime < MinLinkLifetime || lifetime > MaxLinkLifetime:
		return 0, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid expires_in: must be from one minute to one day", Hint: hint}
	}
	return lifetime, nil
}

// schemeOf returns the scheme of the address that the client has called.
func schemeOf(r *http.Request) string {
	if r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https") {
		return "https"
	}
	return "http"
}

// A token is the time of its expiry and a code that signs it for one job, in
// base 64.
const (
	tokenParameter = "token"
	expiryBytes    = 8
	tokenBytes     = expiryBytes + sha256.Size
)

var tokenEncoding = base64.RawURLEncoding.Strict()

// linkToken returns a token for the events of a job. It is signed with a key of the
// current internal secret, so that links follow its rotation.
func (s *Server) linkToken(job string, expires time.Time) string {
	for _, secret := range s.cfg.Secrets() {
		if secret != "" {
			expiry := binary.BigEndian.AppendUint64(nil, uint64(expires.Unix()))
			return tokenEncoding.EncodeToString(append(expiry, s.linkCode(secret, job, expiry)...))
		}
	}
	panic("server: no secret") // the request had one
}

// linkCode signs the expiry of a token for a job. The internal secret is not enough
// to derive the key: operators choose it, and a weak one could be guessed from a
// token.
func (s *Server) linkCode(secret, job string, expiry []byte) []byte {
	key, err := hkdf.Key(sha256.New, []byte(s.cfg.LinkKey), []byte(secret), "dreamcore job events v1", sha256.Size)
	if err != nil {
		panic("server: derive the key of links: " + err.Error()) // only for longer keys
	}
	id := uuid.MustParse(job)
	mac := hmac.New(sha256.New, key)
	mac.Write(id[:])
	mac.Write(expiry)
	return mac.Sum(nil)
}

// admitsLink reports whether a token is valid for the events of a job, and until when.
// Its duration depends only on lengths and on the number of valid secrets.
func (s *Server) admitsLink(job, token string, now time.Time) (expires time.Time, ok bool) {
	if s.cfg.LinkKey == "" || len(token) != tokenEncoding.EncodedLen(tokenBytes) || strings.ContainsAny(token, "\r\n") { // the decoder would skip line breaks
		return expires, false
	}
	raw, err := tokenEncoding.DecodeString(token)
	if err != nil {
		return expires, false
	}
	if job, err = dreamcore.ParseJobID(job); err != nil {
		return expires, false
	}
	expiry, code := raw[:expiryBytes], raw[expiryBytes:]
	valid := false
	for _, secret := range s.cfg.Secrets() {
		if secret != "" && hmac.Equal(code, s.linkCode(secret, job, expiry)) {
			valid = true
		}
	}
	expires = time.Unix(int64(binary.BigEndian.Uint64(expiry)), 0)
	return expires, valid && now.Before(expires)
}

// errLinkExpired is the cause of the end of a stream whose link has expired.
var errLinkExpired = errors.New("the link has expired")

// untilExpiry returns r with a context that ends with the link: a link that has got
// into other hands must not read a job for longer than its expiry says.
func (x *exchange) untilExpiry(r *http.Request) (_ *http.Request, done context.CancelFunc) {
	ctx, done := context.WithDeadlineCause(r.Context(), x.expires, errLinkExpired)
	return r.WithContext(ctx), done
}

// expiredComment ends a stream whose link has expired. An EventSource comes back with
// the link, gets 401, and reports an error.
const expiredComment = ": the link has expired\n\n"

// authorized reports whether a request may use an endpoint: by a secret, or by a
// token, which only the events of its job accept.
func (s *Server) authorized(x *exchange, r *http.Request, found route) bool {
	if found.open || authorized(r.Header, s.cfg.Secrets()) {
		return true
	}
	if !found.linked {
		return false
	}
	tokens := r.URL.Query()[tokenParameter]
	if len(tokens) == 1 {
		x.expires, x.linked = s.admitsLink(found.values["id"], tokens[0], time.Now())
	}
	return x.linked
}

// linkedStreams counts the streams of each job that are read with links.
type linkedStreams struct {
	mu    sync.Mutex
	count map[string]int // guarded by mu
}

// enter counts a stream until leave is called; ok is false if there are too many.
func (l *linkedStreams) enter(job string) (leave func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.count[job] >= maxLinked {
		return nil, false
	}
	if l.count == nil {
		l.count = map[string]int{}
	}
	l.count[job]++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.count[job]--; l.count[job] == 0 {
			delete(l.count, job)
		}
	}, true
}

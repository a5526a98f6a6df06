package preview

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// scope is the purpose of a token. A token is invalid for other purposes.
type scope string

const (
	scopeLink   scope = "link"   // in the query of a link
	scopeCookie scope = "cookie" // in a cookie
	scopePath   scope = "path"   // in the path of the shared origin
)

// grant is the content of a token: permission to see one game until it expires.
type grant struct {
	user    dreamcore.UserID
	project dreamcore.ProjectID
	expires time.Time // whole seconds
}

// sealer creates labels and tokens. Tokens are encrypted and not only signed, so
// that a player with a link does not learn the game's owner.
type sealer struct {
	labelKey []byte
	aead     cipher.AEAD
}

func newSealer(key string) (sealer, error) {
	labelKey, err := derive(key, "label")
	if err != nil {
		return sealer{}, err
	}
	tokenKey, err := derive(key, "token")
	if err != nil {
		return sealer{}, err
	}
	block, err := aes.NewCipher(tokenKey)
	if err != nil {
		return sealer{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return sealer{labelKey: labelKey, aead: aead}, err
}

func derive(key, purpose string) ([]byte, error) {
	return hkdf.Key(sha256.New, []byte(key), nil, "dreamcore preview v1 "+purpose, 32)
}

// Labels are 16 bytes in base 32, which fits into a label of a host name. Without
// a dash, it never looks like the host name of an endpoint.
const (
	labelBytes  = 16
	labelLength = 26
)

var labelEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

func (s sealer) label(user dreamcore.UserID, project dreamcore.ProjectID) string {
	mac := hmac.New(sha256.New, s.labelKey)
	mac.Write([]byte(user + "/" + dreamcore.UserID(project))) // both have a fixed length
	return labelEncoding.EncodeToString(mac.Sum(nil)[:labelBytes])
}

func isLabel(text string) bool {
	return len(text) == labelLength && strings.Trim(text, "abcdefghijklmnopqrstuvwxyz234567") == ""
}

// owns reports whether a label belongs to the grant's game.
func (s sealer) owns(label string, g grant) bool {
	return subtle.ConstantTimeCompare([]byte(label), []byte(s.label(g.user, g.project))) == 1
}

const (
	idBytes     = 16
	plainBytes  = 2*idBytes + 8
	maxTokenLen = 256
)

var tokenEncoding = base64.RawURLEncoding.Strict()

func (s sealer) seal(sc scope, g grant) (string, error) {
	user, err := uuid.Parse(string(g.user))
	if err != nil {
		return "", err
	}
	project, err := uuid.Parse(string(g.project))
	if err != nil {
		return "", err
	}
	plain := append(user[:], project[:]...)
	plain = binary.BigEndian.AppendUint64(plain, uint64(g.expires.Unix()))
	return tokenEncoding.EncodeToString(s.aead.Seal(nil, nil, plain, []byte(sc))), nil
}

// open returns the grant in a token. ok is false if the token was not sealed with
// this key for this scope, or has expired at now. Its duration does not depend on
// the key.
func (s sealer) open(sc scope, token string, now time.Time) (_ grant, ok bool) {
	if len(token) > maxTokenLen || strings.ContainsAny(token, "\r\n") { // the decoder would skip line breaks
		return grant{}, false
	}
	raw, err := tokenEncoding.DecodeString(token)
	if err != nil {
		return grant{}, false
	}
	plain, err := s.aead.Open(nil, nil, raw, []byte(sc))
	if err != nil || len(plain) != plainBytes {
		return grant{}, false
	}
	g := grant{
		user:    dreamcore.UserID(uuid.UUID(plain[:idBytes]).String()),
		project: dreamcore.ProjectID(uuid.UUID(plain[idBytes : 2*idBytes]).String()),
		expires: time.Unix(int64(binary.BigEndian.Uint64(plain[2*idBytes:])), 0),
	}
	return g, now.Before(g.expires)
}

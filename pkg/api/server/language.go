package server

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// maxAcceptLanguage bounds how much of the header is parsed, in bytes; browsers
// send less than a tenth of it.
const maxAcceptLanguage = 1 << 10

// preferredLanguage returns the supported language with the highest weight in an
// Accept-Language header. Malformed parts are ignored.
func preferredLanguage(header string, otherwise dreamcore.Language) dreamcore.Language {
	header = header[:min(len(header), maxAcceptLanguage)]
	best, bestQ := otherwise, 0.0
	for part := range strings.SplitSeq(header, ",") {
		tag, params, _ := strings.Cut(part, ";")
		lang, ok := knownLanguage(tag, otherwise)
		if !ok {
			continue
		}
		// Of equal weights the first counts, as clients without weights expect.
		if q := weight(params); q > bestQ {
			best, bestQ = lang, q
		}
	}
	return best
}

// PreferredLanguage returns the language of messages for the player behind a request.
func PreferredLanguage(h http.Header, otherwise dreamcore.Language) dreamcore.Language {
	return preferredLanguage(strings.Join(h.Values("Accept-Language"), ","), otherwise)
}

// knownLanguage recognizes "ja", "ja-JP", "EN-us" and "*".
func knownLanguage(tag string, otherwise dreamcore.Language) (dreamcore.Language, bool) {
	primary, _, _ := strings.Cut(strings.ToLower(strings.TrimSpace(tag)), "-")
	switch lang := dreamcore.Language(primary); lang {
	case dreamcore.Japanese, dreamcore.English:
		return lang, true
	case "*":
		return otherwise, true
	}
	return "", false
}

// weight parses "q=0.8". A missing weight is 1, a malformed one 0, which excludes
// the language.
func weight(params string) float64 {
	params = strings.ToLower(strings.TrimSpace(params))
	if params == "" {
		return 1
	}
	value, ok := strings.CutPrefix(params, "q=")
	if !ok {
		return 0
	}
	q, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
	if err != nil || !(q >= 0 && q <= 1) { // not NaN either
		return 0
	}
	return q
}

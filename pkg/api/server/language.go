package server

import (
	"strconv"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// maxAcceptLanguage bounds what is looked at of the header; browsers send
// less than a tenth of it.
const maxAcceptLanguage = 1 << 10

// preferredLanguage picks the language that an Accept-Language header likes
// best of those there are sentences in. Malformed parts do not count.
func preferredLanguage(header string, otherwise dreamcore.Language) dreamcore.Language {
	header = header[:min(len(header), maxAcceptLanguage)]
	best, bestQ := otherwise, 0.0
	for part := range strings.SplitSeq(header, ",") {
		tag, params, _ := strings.Cut(part, ";")
		lang, ok := knownLanguage(tag, otherwise)
		if !ok {
			continue
		}
		// Of equals the first: that is what clients without weights mean.
		if q := weight(params); q > bestQ {
			best, bestQ = lang, q
		}
	}
	return best
}

// knownLanguage knows "ja", "ja-JP", "EN-us" and "*".
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

// weight reads "q=0.8"; none means 1, and a malformed one 0, which is never.
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

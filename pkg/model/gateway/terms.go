package gateway

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
)

// A request can select services at other than the standard price: a faster or a
// reserved service, a region, other models, several passes over the prompt. A
// sandbox does not need any of them, and a budget could not be enforced, since
// their cost is known only at the end. So each is refused. If an answer reports
// one all the same (the account's workspace may have its own region), it is
// priced: see tokens.terms.

// surchargeMessage refuses a request with another than the standard price.
const surchargeMessage = "This request asks for a service at another price (%s), which is not available here."

// standardTerms are the values of a request's members that do not change the
// price.
var standardTerms = map[string][]string{
	"speed":         {"standard"},
	"service_tier":  {"auto", "standard_only"},
	"inference_geo": {"global"},
}

// surchargeBetas are the prefixes of the betas that only change the price.
var surchargeBetas = []string{"fast-mode-", "compact-", "server-side-fallback-", "fallback-credit-"}

// surchargedMember returns the member of a body, which is valid JSON, that
// changes its price, or "".
func surchargedMember(body []byte) string {
	for m := range Members(body) {
		value := body[m.Value:m.End]
		plain, isTerm := standardTerms[m.Name]
		switch {
		case isTerm && !isStandard(value, plain),
			(m.Name == "fallbacks" || m.Name == "compaction") && !isEmpty(value):
			return m.Name
		case m.Name == "context_management" && summarizes(value):
			return "context_management.edits"
		}
	}
	return ""
}

// isStandard reports whether a value is missing, null, or one of plain.
func isStandard(value []byte, plain []string) bool {
	if s := string(value); s == "" || s == "null" {
		return true
	}
	var s string
	return len(value) <= 256 && json.Unmarshal(value, &s) == nil && slices.Contains(plain, s)
}

// summarizes reports whether an edit of the context does more than clear parts
// of it: a summary is another pass over the prompt.
func summarizes(management []byte) bool {
	if management[0] != '{' {
		return management[0] != 'n'
	}
	for m := range Members(management) {
		edits := management[m.Value:m.End]
		if m.Name != "edits" || edits[0] == 'n' {
			continue
		}
		if edits[0] != '[' {
			return true
		}
		for _, edit := range Elements(edits) {
			if !clears(edit) {
				return true
			}
		}
	}
	return false
}

// clears reports whether an edit only clears parts of the context.
func clears(edit []byte) bool {
	typed, ok := checkTypes(edit, func(kind string) bool { return strings.HasPrefix(kind, `"clear_`) })
	return typed && ok
}

// dropSurchargeBetas removes the betas that only change the price.
func dropSurchargeBetas(h http.Header) {
	var kept []string
	for _, line := range h.Values("Anthropic-Beta") {
		flags := strings.Split(line, ",")
		left := slices.DeleteFunc(flags, func(flag string) bool {
			flag = strings.ToLower(strings.TrimSpace(flag))
			return slices.ContainsFunc(surchargeBetas, func(b string) bool { return strings.HasPrefix(flag, b) })
		})
		if len(left) > 0 {
			kept = append(kept, strings.Join(left, ","))
		}
	}
	delete(h, "Anthropic-Beta")
	if len(kept) > 0 {
		h["Anthropic-Beta"] = kept
	}
}

// Upper bounds of the tokens in a prompt.
const (
	// inputBytesPerToken: text in scripts with three bytes per letter has about
	// one token per letter.
	inputBytesPerToken = 3
	// promptOverhead is what the API adds to a prompt for the use of tools.
	promptOverhead = 2048
	// imageTokens exceeds the tokens of an image of the largest size.
	imageTokens = 5000
	// maxPrompt is the longest context of any model, assumed for documents: one
	// of a few kilobytes can have hundreds of pages.
	maxPrompt = 1_000_000
)

// promptBound returns an upper bound of the tokens of a body as a prompt.
func promptBound(body []byte, a attached) int64 {
	n := int64(len(body)/inputBytesPerToken) + promptOverhead + imageTokens*a.images
	if a.documents {
		n = max(n, maxPrompt)
	}
	return n
}

// attached describes the attachments of a body.
type attached struct {
	images    int64
	documents bool // also set for attachments of unknown size
}

// count adds a source of content.
func (a *attached) count(source []byte) {
	encoded, image, other := false, false, false
	for m := range Members(source) {
		value := source[m.Value:min(m.End, m.Value+maxTypeBytes)] // a longer string is truncated and so invalid
		switch m.Name {
		case "type":
			kind := textOf(value)
			encoded = encoded || kind != "text" && kind != "content"
		case "media_type":
			isImage := strings.HasPrefix(textOf(value), "image/")
			image, other = image || isImage, other || !isImage
		}
	}
	switch {
	case encoded && image && !other:
		a.images++
	case encoded:
		a.documents = true
	}
}

// asksForHour reports whether a body may ask the API to cache a part of it for
// an hour. The escapes are those of the two characters.
func asksForHour(body []byte) bool {
	for _, s := range []string{`"1h"`, `\u0031`, `\u0068`} {
		if bytes.Contains(body, []byte(s)) {
			return true
		}
	}
	return false
}

package gateway

import (
	"net/http"
	"strings"
)

// maxUserAgent bounds the only header with free text.
const maxUserAgent = 256

// requestHeader returns the headers of a sandbox's request that are sent to the
// upstream. All others are dropped: credentials, cookies, hop-by-hop and
// forwarding headers, the CLI's description of its machine and session.
func requestHeader(in http.Header) http.Header {
	out := make(http.Header, 6)
	for _, name := range []string{"Accept", "Anthropic-Version"} {
		if v := in.Get(name); v != "" {
			out.Set(name, v)
		}
	}
	if v := in.Values("Anthropic-Beta"); len(v) > 0 {
		out["Anthropic-Beta"] = append([]string(nil), v...)
		dropSurchargeBetas(out)
	}
	agent := in.Get("User-Agent")
	if agent == "" || len(agent) > maxUserAgent {
		agent = "dreamcore"
	}
	out.Set("User-Agent", agent)
	// The body was checked to be JSON; the declared type is ignored.
	out.Set("Content-Type", "application/json")
	// A compressed stream could not be metered.
	out.Set("Accept-Encoding", "identity")
	return out
}

// answerHeader copies the headers of an answer that the sandbox may see: not the
// API's rate limits, cookies and server names.
func answerHeader(dst, src http.Header) {
	for _, name := range []string{"Content-Type", "Request-Id", "X-Should-Retry"} {
		if v := src.Get(name); v != "" {
			dst.Set(name, v)
		}
	}
}

// mediaType returns the Content-Type of h without parameters and in lower case,
// even if the parameters are malformed.
func mediaType(h http.Header) string {
	media, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.ToLower(strings.TrimSpace(media))
}

package history

import (
	"slices"
	"strings"
)

// acceptanceTrailer begins the last line of the message of a version whose game was
// checked, as a trailer that git interpret-trailers reads.
const acceptanceTrailer = "Acceptance: "

// verdicts are the values of the trailer.
var verdicts = []string{"passed", "failed", "unknown"}

// WithAcceptance adds the verdict of a check of the game to the message of a
// version; Log returns the two apart. Anything but a verdict adds nothing.
func WithAcceptance(message, verdict string) string {
	if !slices.Contains(verdicts, verdict) {
		return message
	}
	return message + "\n\n" + acceptanceTrailer + verdict
}

// splitAcceptance returns a message without its trailer, and the verdict, which is
// "" without one.
func splitAcceptance(message string) (rest, verdict string) {
	text := strings.TrimRight(message, "\n")
	at := strings.LastIndex(text, "\n\n")
	if at < 0 {
		return message, ""
	}
	verdict, ok := strings.CutPrefix(text[at+2:], acceptanceTrailer)
	if !ok || !slices.Contains(verdicts, verdict) {
		return message, ""
	}
	return text[:at], verdict
}

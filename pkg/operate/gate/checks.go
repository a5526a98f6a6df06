package gate

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/pattern"
)

const (
	// sent is the text that the server writes to the standard input of cat.
	sent = "hello"
	// unauthorized is the error text of a refusal.
	unauthorized = "Unauthorized"
)

func checkHealth(ctx context.Context, c Config) verdict {
	h, err := c.Client.Health(ctx)
	switch {
	case err != nil:
		return failedBy(err)
	case h.Status != "healthy":
		return failed("its status is " + quote(h.Status) + ", not " + quote("healthy"))
	case h.App == "":
		return failed("it does not report its name")
	}
	return passed(strings.TrimSpace(h.App + " " + h.Version))
}

func checkSandboxIO(ctx context.Context, c Config) verdict {
	s, err := c.Client.TestSandboxIO(ctx)
	switch {
	case err != nil:
		return failedBy(err)
	case s.Input != sent:
		return failed("the input was " + quote(s.Input) + ", not " + quote(sent))
	case s.Output != s.Input:
		return failed("the input was " + quote(s.Input) + ", the output " + quote(s.Output))
	case !s.Match:
		return failed("the texts are equal, but the server reports a mismatch")
	}
	return passed("the output is " + quote(s.Output) + ", as the input")
}

func checkIsolation(ctx context.Context, c Config) verdict {
	g, err := c.Client.TestGVisor(ctx)
	if err != nil {
		return failedBy(err)
	}
	seen := "/proc/version is " + quote(g.ProcVersion)
	evidence := showsGVisor(g.ProcVersion)
	v := verdict{}
	switch {
	case strings.TrimSpace(g.ProcVersion) == "":
		return failed("no evidence: /proc/version is empty")
	case evidence && g.IsGVisor:
		return passed(strings.TrimSpace(g.ProcVersion))
	case evidence:
		v = failed("the server reports no gVisor, although " + seen)
	case g.IsGVisor:
		v = failed("the server reports gVisor, but " + seen)
	default:
		v = failed("no gVisor: " + seen)
	}
	if c.AllowNonGVisor {
		return verdict{status: Relaxed, detail: "allowed by ALLOW_NON_GVISOR; " + v.detail}
	}
	v.err = &dreamcore.Error{Code: dreamcore.CodeInternal, Reason: ReasonNoGVisor, Message: v.detail}
	return v
}

// olderGVisor matches /proc/version of gVisor releases that do not name gVisor
// in it. They all show the same build of Linux 4.4.0, which no distribution has.
var olderGVisor = pattern.New(`^Linux version 4\.4\.0 (.* )?#1 SMP Sun Jan 10 15:06:54 PST 2016$`)

// showsGVisor reports whether procVersion is the /proc/version of gVisor.
func showsGVisor(procVersion string) bool {
	return strings.Contains(strings.ToLower(procVersion), "gvisor") || olderGVisor().MatchString(strings.TrimSpace(procVersion))
}

// checkVolume asks twice: a prepared answer would have the same id each time.
func checkVolume(ctx context.Context, c Config) verdict {
	first := ""
	for range 2 {
		v, err := c.Client.TestVolume(ctx)
		id, idErr := uuid.Parse(v.TestID)
		switch {
		case err != nil:
			return failedBy(err)
		case idErr != nil || !strings.EqualFold(id.String(), v.TestID):
			return failed("the test id " + quote(v.TestID) + " is not a UUID")
		case v.Written == "":
			return failed("nothing was written")
		case v.Read != v.Written:
			return failed("wrote " + quote(v.Written) + ", read " + quote(v.Read))
		case !v.Match:
			return failed("the texts are equal, but the server reports a mismatch")
		case v.TestID == first:
			return failed("two tests have the same id " + v.TestID)
		}
		first = v.TestID
	}
	return passed("the written text was read back, twice")
}

func checkAuth(ctx context.Context, c Config) verdict {
	right := c.Client.Secret()
	random := make([]byte, 32)
	rand.Read(random) // never fails: it would crash the process instead
	wrong, longer, empty := hex.EncodeToString(random), right+"0", ""
	for _, try := range []struct {
		how    string
		secret *string
	}{
		{"without a secret", nil},
		{"with a wrong secret", &wrong},
		{"with the secret and one more character", &longer},
		{"with an empty secret", &empty},
	} {
		a, err := c.Client.TestAuth(ctx, try.secret)
		if v, ok := notRefused(a, err, try.how); ok {
			return v
		}
	}
	if right == "" {
		return failedFor(dreamcore.CodeUnauthorized, ReasonSecret, "calls without the secret are refused, but there is no secret to try")
	}
	return rightSecret(c.Client.TestAuth(ctx, &right))
}

// notRefused returns the failure of an answer that is not the refusal of the
// contract. ok is false if the answer is that refusal.
func notRefused(a client.Auth, err error, how string) (v verdict, ok bool) {
	switch {
	case err != nil:
		return failedBy(fmt.Errorf("%s: %w", how, err)), true
	case a.Status != http.StatusUnauthorized:
		return failed(fmt.Sprintf("%s: the status is %d, not 401", how, a.Status)), true
	case a.Error != unauthorized:
		return failed(fmt.Sprintf("%s: the error of the 401 is %s, not %s", how, quote(a.Error), quote(unauthorized))), true
	}
	return verdict{}, false
}

func rightSecret(a client.Auth, err error) verdict {
	switch {
	case err != nil:
		return failedBy(fmt.Errorf("with the right secret: %w", err))
	case a.Status == http.StatusUnauthorized:
		return failedFor(dreamcore.CodeUnauthorized, ReasonSecret, "with the given secret: 401, the server has another one")
	case a.Status != http.StatusOK:
		return failed(fmt.Sprintf("with the right secret: the status is %d, not 200", a.Status))
	case !a.Success:
		return failed("with the right secret: 200, but no success")
	}
	return passed("401 without a secret and with wrong ones, 200 with the right one")
}

// quote quotes a text of the server, truncated.
func quote(s string) string {
	const most = 120
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return strconv.Quote(s)
}

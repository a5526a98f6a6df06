package gate

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// A deep gate asks the server to attack itself from its own sandboxes, and judges
// the results that the server saw. The text that some attacks look for (the
// nonce) is chosen here, so a prepared answer cannot contain it.

// judge decides whether the evidence of a check is a pass.
type judge func(c Config, e evidence) verdict

func deepGates() []Gate {
	gates := []Gate{
		{Number: 6, Name: "key-leak", Passes: "no secret is readable in a sandbox", check: deep("key-leak", judgeKeyLeak)},
		{Number: 7, Name: "other-user", Passes: "a user cannot reach another user's file", check: deep("other-user", judgeOtherUser)},
		{Number: 8, Name: "metadata", Passes: "no address of cloud credentials is reachable", check: deep("metadata", judgeSockets(5, "169.254.169.254"))},
		{Number: 9, Name: "dns", Passes: "no name is resolved, no name server is reachable", check: deep("dns", judgeDNS)},
		{Number: 10, Name: "raw-sockets", Passes: "no raw, packet or VM socket can be opened", check: deep("raw-sockets", judgeSockets(4, "packet"))},
		{Number: 11, Name: "fork-bomb", Passes: "a fork bomb is bounded and affects no other user", check: deep("fork-bomb", judgeForkBomb)},
		{Number: 12, Name: "disk-fill", Passes: "a user can fill only their own disk", check: deep("disk-fill", judgeDiskFill)},
		{Number: 13, Name: "symlink", Passes: "the service follows no symbolic link of a sandbox", check: deep("symlink", judgeSymlink)},
	}
	for i := range gates {
		gates[i].Deep = true
	}
	return gates
}

// evidence is the result of a deep check, and the text that was planted for it.
type evidence struct {
	list  []client.Evidence
	nonce string
}

func (e evidence) of(tried string) (seen string, ok bool) {
	for _, one := range e.list {
		if one.Tried == tried {
			return one.Seen, true
		}
	}
	return "", false
}

// deep returns the check of a deep gate. While the server runs it, /health must
// keep answering.
func deep(name string, judged judge) func(context.Context, Config) verdict {
	return func(ctx context.Context, c Config) verdict {
		raw := make([]byte, 16)
		rand.Read(raw) // never fails: it would crash the process instead
		e := evidence{nonce: hex.EncodeToString(raw)}
		stop := watchHealth(ctx, c)
		d, err := c.Client.TestDeep(ctx, name, e.nonce)
		slowest, lost := stop()
		if lost == nil && ctx.Err() == nil {
			_, lost = c.Client.Health(ctx)
		}
		if dreamcore.CodeOf(err) == dreamcore.CodeNotFound {
			return failedFor(dreamcore.CodeNotFound, ReasonNoDeepChecks, "not offered: the server has no deep checks")
		}
		e.list = d.Evidence
		v := verdict{}
		left, _ := e.of("left behind")
		switch {
		case err != nil:
			return failedBy(err)
		case d.Check != name:
			return failed("the answer is for the check " + quote(d.Check))
		case lost != nil:
			v = failed("while it ran, or after it, /health did not answer: " + lost.Error())
		case left != "nothing":
			v = failed("left behind: " + quote(left))
		default:
			if v = judged(c, e); v.status == Pass {
				v.detail += fmt.Sprintf("; /health within %s meanwhile", term.Duration(slowest))
			}
		}
		v.evidence = e.list
		return v
	}
}

const (
	healthEvery = 500 * time.Millisecond
	healthLimit = 5 * time.Second
)

// watchHealth polls /health until stop is called. stop returns the longest wait
// and the first failure.
func watchHealth(ctx context.Context, c Config) (stop func() (slowest time.Duration, lost error)) {
	ctx, cancel := context.WithCancel(ctx)
	var slowest time.Duration
	var lost error
	var wg sync.WaitGroup
	wg.Go(func() {
		for lost == nil {
			limited, done := context.WithTimeout(ctx, healthLimit)
			began := time.Now()
			_, err := c.Client.Health(limited)
			done()
			switch {
			case err == nil:
				slowest = max(slowest, time.Since(began))
			case ctx.Err() == nil:
				lost = err
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(healthEvery):
			}
		}
	})
	return func() (time.Duration, error) {
		cancel()
		wg.Wait()
		return slowest, lost
	}
}

// minSearched is the least number of bytes that a credible search covers: the
// environment and /proc alone have more.
const minSearched = 16 << 10

func judgeKeyLeak(_ Config, e evidence) verdict {
	text, _ := e.of("bytes searched")
	searched, err := strconv.ParseInt(text, 10, 64)
	if err != nil || searched < minSearched {
		return failed("too little was searched: " + quote(text) + " bytes")
	}
	if planted, _ := e.of("planted text"); !atLeastOne(planted) {
		return failed("the search did not find the planted text: " + quote(planted))
	}
	var unset []string
	for _, secret := range []string{"the internal secret", "the identity", "the API key", "the token of another job"} {
		seen, ok := e.of(secret)
		switch {
		case !ok:
			return failed("no search for " + secret)
		case seen == "not set" && (secret == "the API key" || secret == "the identity"): // with a model script; an identity outside of files
			unset = append(unset, secret)
		case seen != "0":
			return failed(secret + " was seen: " + quote(seen))
		}
	}
	for _, one := range e.list {
		if strings.HasPrefix(one.Tried, "the sealed secret ") && one.Seen != "0" {
			return failed(one.Tried + " was seen: " + quote(one.Seen))
		}
	}
	detail := fmt.Sprintf("nothing in %s, the planted text found", term.Size(searched))
	if len(unset) > 0 {
		detail += "; not set: " + strings.Join(unset, ", ")
	}
	return passed(detail)
}

func atLeastOne(s string) bool {
	n, err := strconv.Atoi(s)
	return err == nil && n > 0
}

// mustSee requires that the attempts in shown saw the planted text and that all
// others, at least n of them, did not.
func mustSee(e evidence, n int, shown ...string) verdict {
	for _, tried := range shown {
		if seen, _ := e.of(tried); !strings.Contains(seen, e.nonce) {
			return failed("the planted text is missing where it must be seen, " + tried + ": " + quote(seen))
		}
	}
	hidden := 0
	for _, one := range e.list {
		switch {
		case slices.Contains(shown, one.Tried) || one.Tried == "left behind":
		case one.Seen == "":
			return failed("the attempt " + one.Tried + " has no result")
		case strings.Contains(one.Seen, e.nonce):
			return failed("the planted text is seen " + one.Tried)
		default:
			hidden++
		}
	}
	if hidden < n {
		return failed(fmt.Sprintf("only %d attempts, not %d", hidden, n))
	}
	return passed(fmt.Sprintf("%d attempts failed, and the control attempt worked", hidden))
}

func judgeOtherUser(_ Config, e evidence) verdict {
	if seen, _ := e.of("users that are seen"); seen != "none but itself" {
		return failed("other users are seen: " + quote(seen))
	}
	return mustSee(e, 7, "the owner reads it")
}

func judgeSymlink(_ Config, e evidence) verdict { return mustSee(e, 6, "plain.txt") }

// judgeSockets requires that every attempt was refused, at least n of them and
// one with named in it, and that a socket on loopback opened.
func judgeSockets(n int, named string) judge {
	return func(_ Config, e evidence) verdict {
		if seen, _ := e.of("loopback"); seen != "opened" {
			return failed("a socket within the sandbox does not work: " + quote(seen))
		}
		refusals, found := 0, false
		for _, one := range e.list {
			switch {
			case one.Tried == "loopback" || one.Tried == "left behind" || strings.HasPrefix(one.Tried, "name="):
				continue
			case one.Seen == "opened" || one.Seen == "":
				return failed(one.Tried + ": " + quote(one.Seen))
			}
			refusals++
			found = found || strings.Contains(one.Tried, named)
		}
		if refusals < n || !found {
			return failed(fmt.Sprintf("only %d attempts of %d, or none on %s", refusals, n, named))
		}
		return passed(fmt.Sprintf("%d attempts refused, a socket within the sandbox works", refusals))
	}
}

func judgeDNS(c Config, e evidence) verdict {
	if seen, _ := e.of("name=localhost"); !strings.Contains(seen, "localhost") {
		return failed("localhost has no address: " + quote(seen))
	}
	for _, name := range []string{"name=example.com", "name=metadata.google.internal"} {
		if seen, _ := e.of(name); !strings.HasPrefix(seen, "not found") {
			return failed(name + ": " + quote(seen))
		}
	}
	return judgeSockets(5, ":53")(c, e)
}

func judgeForkBomb(_ Config, e evidence) verdict {
	said, _ := e.of("processes without an end")
	if low := strings.ToLower(said); !strings.Contains(low, "fork") && !strings.Contains(low, "resource") {
		return failed("no limit was met: " + quote(said))
	}
	if seen, _ := e.of("the sandbox of another user meanwhile"); seen != "works" {
		return failed("the sandbox of another user: " + quote(seen))
	}
	seen, _ := e.of("the same sandbox afterwards")
	works := "other users and the sandbox itself work"
	if replacement, ok := e.of("a sandbox in its place"); ok {
		seen, works = replacement, "other users work, the sandbox was replaced"
	}
	if !strings.HasPrefix(seen, "works") {
		return failed("the sandbox afterwards: " + quote(seen))
	}
	return passed("bounded: " + quote(said) + ", " + works)
}

func judgeDiskFill(c Config, e evidence) verdict {
	text, _ := e.of("bound")
	if text == "none" {
		v := failedFor(dreamcore.CodeInternal, ReasonNoDiskBound, "users' files are bounded only by the machine's disk")
		if c.AllowUnlimited {
			return verdict{status: Relaxed, detail: "allowed by allow_unlimited; " + v.detail}
		}
		return v
	}
	bound, err := strconv.ParseInt(text, 10, 64)
	written, _ := e.of("bytes written")
	n, werr := strconv.ParseInt(strings.TrimSpace(written), 10, 64)
	lost, _ := e.of("bytes less on the machine's disk")
	_, lerr := strconv.ParseInt(lost, 10, 64) // only its form is checked: others write to the same disk
	said, _ := e.of("writing twice the bound")
	another, _ := e.of("another user writes meanwhile")
	switch {
	case err != nil || werr != nil || lerr != nil || bound <= 0 || n <= 0:
		return failed("malformed numbers: bound " + quote(text) + ", written " + quote(written) + ", less " + quote(lost))
	case n > bound:
		return failed(fmt.Sprintf("%s were written, over the bound of %s", term.Size(n), term.Size(bound)))
	case !strings.Contains(said, "No space left"):
		return failed("no limit was met: " + quote(said))
	case another != "works":
		return failed("another user cannot write: " + quote(another))
	}
	return passed(fmt.Sprintf("%s of %s were written, then there was no space left; another user writes", term.Size(n), term.Size(bound)))
}

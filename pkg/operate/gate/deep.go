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

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// A deep gate asks the server to try something in sandboxes of its own, and
// judges by what the server has seen. The text that some of them look for is
// made here, so an answer that was made up beforehand does not have it.

// judge says what is wrong with the evidence of a check, or in words what it
// shows.
type judge func(c Config, e evidence) verdict

func deepGates() []Gate {
	gates := []Gate{
		{Number: 6, Name: "key-leak", Passes: "no secret is in anything that a sandbox gets at", check: deep("key-leak", judgeKeyLeak)},
		{Number: 7, Name: "other-user", Passes: "a user's file is out of another user's reach", check: deep("other-user", judgeOtherUser)},
		{Number: 8, Name: "metadata", Passes: "no address of cloud credentials is reached", check: deep("metadata", judgeSockets(5, "169.254.169.254"))},
		{Number: 9, Name: "dns", Passes: "no name is resolved, no name server reached", check: deep("dns", judgeDNS)},
		{Number: 10, Name: "raw-sockets", Passes: "no raw, packet or VM socket opens", check: deep("raw-sockets", judgeSockets(4, "packet"))},
		{Number: 11, Name: "fork-bomb", Passes: "a fork bomb is bounded and hurts nobody", check: deep("fork-bomb", judgeForkBomb)},
		{Number: 12, Name: "disk-fill", Passes: "a full disk is the disk of its user only", check: deep("disk-fill", judgeDiskFill)},
		{Number: 13, Name: "symlink", Passes: "the service follows no link of a sandbox", check: deep("symlink", judgeSymlink)},
	}
	for i := range gates {
		gates[i].Deep = true
	}
	return gates
}

// evidence is what a deep check saw, and the text that was planted for it.
type evidence struct {
	list  []Evidence
	nonce string
}

// of returns what was seen of one thing.
func (e evidence) of(tried string) (seen string, ok bool) {
	for _, one := range e.list {
		if one.Tried == tried {
			return one.Seen, true
		}
	}
	return "", false
}

// deep makes the check of a deep gate. While the server works, it must go on
// to answer others.
func deep(name string, judged judge) func(context.Context, Config) verdict {
	return func(ctx context.Context, c Config) verdict {
		raw := make([]byte, 16)
		rand.Read(raw) // never fails: it ends the process where it would
		e := evidence{nonce: hex.EncodeToString(raw)}
		stop := watchHealth(ctx, c)
		d, err := c.Client.TestDeep(ctx, name, e.nonce)
		slowest, lost := stop()
		if lost == nil && ctx.Err() == nil {
			_, lost = c.Client.Health(ctx)
		}
		if dreamcore.CodeOf(err) == dreamcore.CodeNotFound {
			v := failed("not offered: the server has no deep checks")
			v.err = &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: v.detail, Err: err, Hint: "check such a server with: dreamcore gate --all"}
			return v
		}
		for _, one := range d.Evidence {
			clean := Evidence{Tried: short(one.Tried), Seen: short(one.Seen), Seconds: one.Seconds}
			if s := c.Client.Secret(); s != "" {
				clean.Tried, clean.Seen = strings.ReplaceAll(clean.Tried, s, "[secret]"), strings.ReplaceAll(clean.Seen, s, "[secret]")
			}
			e.list = append(e.list, clean)
		}
		v := verdict{}
		left, _ := e.of("left behind")
		switch {
		case err != nil:
			return failedBy(err)
		case d.Failed != "":
			return refused(d.Failed)
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

// watchHealth asks for /health again and again until stop is called, which
// tells the longest wait and the first failure.
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

// minSearched is how much a search must have seen at least to mean anything:
// the environment and /proc alone are more.
const minSearched = 16 << 10

func judgeKeyLeak(_ Config, e evidence) verdict {
	text, _ := e.of("bytes searched")
	searched, err := strconv.ParseInt(text, 10, 64)
	if err != nil || searched < minSearched {
		return failed("too little was searched: " + quote(text) + " bytes")
	}
	if planted, _ := e.of("planted text"); !atLeastOne(planted) {
		return failed("the search did not find what was planted for it: " + quote(planted))
	}
	var unset []string
	for _, secret := range []string{"the internal secret", "the identity", "the API key", "the token of another job"} {
		seen, ok := e.of(secret)
		switch {
		case !ok:
			return failed("nobody looked for " + secret)
		case seen == "not set" && (secret == "the API key" || secret == "the identity"): // a model script; an identity that is in no file
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

// mustSee judges attempts of which some show the planted text and all others,
// at least n of them, do not.
func mustSee(e evidence, n int, shown ...string) verdict {
	for _, tried := range shown {
		if seen, _ := e.of(tried); !strings.Contains(seen, e.nonce) {
			return failed("what was planted is not seen where it must be, " + tried + ": " + quote(seen))
		}
	}
	hidden := 0
	for _, one := range e.list {
		switch {
		case slices.Contains(shown, one.Tried) || one.Tried == "left behind":
		case one.Seen == "":
			return failed("nothing is told of the attempt " + one.Tried)
		case strings.Contains(one.Seen, e.nonce):
			return failed("what was planted is seen " + one.Tried)
		default:
			hidden++
		}
	}
	if hidden < n {
		return failed(fmt.Sprintf("only %d attempts, not %d", hidden, n))
	}
	return passed(fmt.Sprintf("%d attempts failed, and the one that must work did", hidden))
}

func judgeOtherUser(_ Config, e evidence) verdict {
	if seen, _ := e.of("users that are seen"); seen != "none but itself" {
		return failed("other users are seen: " + quote(seen))
	}
	return mustSee(e, 7, "the owner reads it")
}

func judgeSymlink(_ Config, e evidence) verdict { return mustSee(e, 6, "plain.txt") }

// judgeSockets wants every attempt refused, at least n and one with a certain
// text, and the one socket to open that must.
func judgeSockets(n int, named string) judge {
	return func(_ Config, e evidence) verdict {
		if seen, _ := e.of("loopback"); seen != "opened" {
			return failed("not even a socket within the sandbox works: " + quote(seen))
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
			return failed(fmt.Sprintf("only %d attempts, of %d that are wanted", refusals, n))
		}
		return passed(fmt.Sprintf("%d attempts refused, a socket within the sandbox works", refusals))
	}
}

func judgeDNS(c Config, e evidence) verdict {
	if seen, _ := e.of("name=localhost"); !strings.Contains(seen, "localhost") {
		return failed("not even localhost has an address: " + quote(seen))
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
		v := failed("what a user writes is bounded by nothing but the machine's disk")
		if c.AllowUnlimited {
			return verdict{status: Relaxed, detail: "allowed by allow_unlimited; " + v.detail}
		}
		v.err = &dreamcore.Error{
			Code: dreamcore.CodeInternal, Message: v.detail,
			Hint: "on the server, run as root with disk_mib set; or set DREAMCORE_ALLOW_UNLIMITED=true here if you accept that",
		}
		return v
	}
	bound, err := strconv.ParseInt(text, 10, 64)
	written, _ := e.of("bytes written")
	n, werr := strconv.ParseInt(strings.TrimSpace(written), 10, 64)
	lost, _ := e.of("bytes less on the machine's disk")
	_, lerr := strconv.ParseInt(lost, 10, 64) // no more: others write to the same disk
	said, _ := e.of("writing twice the bound")
	another, _ := e.of("another user writes meanwhile")
	switch {
	case err != nil || werr != nil || lerr != nil || bound <= 0 || n <= 0:
		return failed("the numbers are none: bound " + quote(text) + ", written " + quote(written) + ", less " + quote(lost))
	case n > bound:
		return failed(fmt.Sprintf("%s were written, over the bound of %s", term.Size(n), term.Size(bound)))
	case !strings.Contains(said, "No space left"):
		return failed("no limit was met: " + quote(said))
	case another != "works":
		return failed("another user cannot write: " + quote(another))
	}
	return passed(fmt.Sprintf("%s of %s were written, then there was no space left; another user writes", term.Size(n), term.Size(bound)))
}

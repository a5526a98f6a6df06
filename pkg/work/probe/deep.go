package probe

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

// Deep configures the deep checks, which attack the service in sandboxes of
// throw-away users.
type Deep struct {
	Dir     string         // on the host, for the throw-away users; created if it is missing
	Volumes volume.Options // of these users; only UID, GID, DiskBytes and Logger are used
	Gateway *gateway.Gateway
	// Secrets returns the values that no sandbox may see, by name. An empty value
	// means that the secret is not set on this machine.
	Secrets func() map[string]string
}

// DeepTimeLimit bounds a deep check.
const DeepTimeLimit = 50 * time.Second

// Evidence is one attempt of a deep check and its result.
type Evidence struct {
	Tried string
	Seen  string // one bounded line
	Took  time.Duration
}

// Report is the result of a deep check. It has no verdict: the client judges.
type Report struct {
	Check    string
	Evidence []Evidence
	Took     time.Duration
}

const (
	maxSeen = 300 // bytes of Evidence.Seen
	// MinNonce and MaxNonce bound the text that a client has planted, in bytes. A
	// shorter text could be found by chance.
	MaxNonce = 128
	MinNonce = 16
)

// deepCheck is an attack by throw-away users. It adds its attempts and their
// results to the notes.
type deepCheck struct {
	guests int // number of users
	run    func(ctx context.Context, n *notes, guests []*guest) error
}

// deepChecks are the deep checks by name.
var deepChecks = map[string]deepCheck{
	"key-leak":    {2, keyLeak},
	"other-user":  {2, otherUser},
	"metadata":    {1, metadata},
	"dns":         {1, dns},
	"raw-sockets": {1, rawSockets},
	"fork-bomb":   {2, forkBomb},
	"disk-fill":   {2, diskFill},
	"symlink":     {2, symlink},
}

// IsNonce reports whether a text may be planted: letters and digits only, so that
// programs inside print it unchanged.
func IsNonce(s string) bool {
	return len(s) >= MinNonce && len(s) <= MaxNonce && strings.IndexFunc(s, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9')
	}) < 0
}

// notes collects evidence.
type notes struct {
	nonce string // the text that is planted where it must, or must not, be found
	list  []Evidence
	dir   string // of the throw-away users
}

// see adds the result of an attempt that began at a time.
func (n *notes) see(began time.Time, tried, seen string) {
	seen = strings.ReplaceAll(seen, n.dir, "[on the host]") // clients must not learn paths of the host
	seen = strings.Join(strings.Fields(strings.ToValidUTF8(seen, "\uFFFD")), " ")
	if len(seen) > maxSeen {
		seen = strings.ToValidUTF8(seen[:maxSeen], "") + "…"
	}
	n.list = append(n.list, Evidence{Tried: tried, Seen: seen, Took: time.Since(began)})
}

// try runs a script as a guest and adds what it prints.
func (n *notes) try(ctx context.Context, g *guest, tried, script string, args ...string) error {
	began := time.Now()
	seen, err := g.shell(ctx, script, args...)
	if err != nil {
		return err
	}
	n.see(began, tried, seen)
	return nil
}

// Deep runs a deep check in new sandboxes of throw-away users. Only one runs at a
// time. nonce is a text that the check plants, so that the client can judge the
// results by it; "" chooses a random one. Deep fails with CodeInvalid for an unknown
// check or an invalid nonce, and with CodeNotFound if the prober has no deep checks.
func (p *Prober) Deep(ctx context.Context, check, nonce string) (Report, error) {
	c, ok := deepChecks[check]
	switch {
	case p.cfg.Deep == nil:
		return Report{}, &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "deep checks are not offered here", Hint: "run the other checks, which every service offers"}
	case !ok:
		return Report{}, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Unknown check", Hint: "the deep checks are: " + strings.Join(slices.Sorted(maps.Keys(deepChecks)), ", ")}
	case nonce == "":
		raw := make([]byte, MinNonce)
		_, _ = rand.Read(raw) // never fails: it would end the process
		nonce = hex.EncodeToString(raw)
	case !IsNonce(nonce):
		return Report{}, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid nonce", Hint: fmt.Sprintf("send %d to %d letters and digits", MinNonce, MaxNonce)}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, DeepTimeLimit, fmt.Errorf("the check took longer than %s: %w", DeepTimeLimit, context.DeadlineExceeded))
	defer cancel()
	select {
	case p.deep <- struct{}{}:
	case <-ctx.Done():
		return Report{}, failed("the check did not begin", context.Cause(ctx))
	}
	defer func() { <-p.deep }()
	began := time.Now()
	n := &notes{nonce: nonce}
	err := p.withDir(ctx, n, func() error {
		return p.withGuests(ctx, n, c.guests, func(guests []*guest) error { return c.run(ctx, n, guests) })
	})
	if err != nil {
		if _, ok := errors.AsType[*dreamcore.Error](err); !ok {
			err = failed("the check could not be carried out", err)
		}
		return Report{}, fmt.Errorf("check %s: %w", check, err)
	}
	return Report{Check: check, Evidence: n.list, Took: time.Since(began)}, nil
}

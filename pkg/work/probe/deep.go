package probe

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
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

// deepCheck adds its attempts and their results to the notes.
type deepCheck func(p *Prober, ctx context.Context, n *notes) error

// deepChecks returns the deep checks by name.
func deepChecks() map[string]deepCheck {
	return map[string]deepCheck{
		"key-leak":    (*Prober).keyLeak,
		"other-user":  (*Prober).otherUser,
		"metadata":    (*Prober).metadata,
		"dns":         (*Prober).dns,
		"raw-sockets": (*Prober).rawSockets,
		"fork-bomb":   (*Prober).forkBomb,
		"disk-fill":   (*Prober).diskFill,
		"symlink":     (*Prober).symlink,
	}
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

// Deep runs a deep check in new sandboxes of throw-away users. Only one runs at a
// time. nonce is a text that the check plants, so that the client can judge the
// results by it; "" chooses a random one. Deep fails with CodeInvalid for an unknown
// check or an invalid nonce, and with CodeNotFound if the prober has no deep checks.
func (p *Prober) Deep(ctx context.Context, check, nonce string) (Report, error) {
	run, ok := deepChecks()[check]
	switch {
	case p.cfg.Deep == nil:
		return Report{}, &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "deep checks are not offered here", Hint: "run: dreamcore gate --all"}
	case !ok:
		return Report{}, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Unknown check", Hint: "the deep checks are listed by: dreamcore gate --help"}
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
	err := p.withDir(ctx, n, func() error { return run(p, ctx, n) })
	if err != nil {
		if _, ok := errors.AsType[*dreamcore.Error](err); !ok {
			err = failed("the check could not be carried out", err)
		}
		return Report{}, fmt.Errorf("check %s: %w", check, err)
	}
	return Report{Check: check, Evidence: n.list, Took: time.Since(began)}, nil
}

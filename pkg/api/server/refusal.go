package server

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Requests that are refused before the secret is checked cost their sender
// nothing, and must not fill the log: beyond these rates they are only counted.
const (
	refusalsPerSecond        = 10
	refusalsAtOnce           = 100
	refusalsByAddress        = 1 // a second
	refusalsByAddressAtOnce  = 20
	maxAddresses             = 1024
	refusalsSummaryInterval  = 10 * time.Second
	refusalsSummaryMessage   = "refused requests that were not logged individually"
	refusalsSuppressedMember = "suppressed"
)

// refusals limits the log entries for refused requests, per address and in total.
// Behind a proxy that is not trusted all requests have the proxy's address, so the
// limit per address applies to all.
type refusals struct {
	mu         sync.Mutex
	total      *rate.Limiter            // guarded by mu
	addresses  map[string]*rate.Limiter // guarded by mu
	suppressed int64                    // guarded by mu; since the last summary
	summarized time.Time                // guarded by mu; time of the last summary
}

func newRefusals() *refusals {
	return &refusals{total: rate.NewLimiter(refusalsPerSecond, refusalsAtOnce), addresses: map[string]*rate.Limiter{}}
}

// admit reports whether the refusal of a request from an address is logged
// individually. If suppressed is positive, the caller must log it as the number
// of earlier refusals that were not.
func (r *refusals) admit(host string, now time.Time) (ok bool, suppressed int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	address := r.addresses[host]
	if address == nil {
		if len(r.addresses) >= maxAddresses {
			clear(r.addresses) // the total limit still applies
		}
		address = rate.NewLimiter(refusalsByAddress, refusalsByAddressAtOnce)
		r.addresses[host] = address
	}
	// An address over its limit does not use up the total limit.
	if ok = address.AllowN(now, 1) && r.total.AllowN(now, 1); !ok {
		r.suppressed++
		if now.Sub(r.summarized) < refusalsSummaryInterval {
			return false, 0
		}
	}
	suppressed, r.suppressed, r.summarized = r.suppressed, 0, now
	return ok, suppressed
}

// flush returns the number of refusals that no summary has covered yet.
func (r *refusals) flush() (suppressed int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	suppressed, r.suppressed = r.suppressed, 0
	return suppressed
}

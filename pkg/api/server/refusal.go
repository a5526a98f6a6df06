package server

import (
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Requests that are refused before the secret is known to be right cost their
// sender nothing, and must not fill the log: what comes faster than this is
// only counted.
const (
	refusalsPerSecond        = 10
	refusalsAtOnce           = 100
	refusalsByAddress        = 1 // a second
	refusalsByAddressAtOnce  = 20
	maxAddresses             = 1024
	refusalsSummaryInterval  = 10 * time.Second
	refusalsSummaryMessage   = "refused requests that are not logged one by one"
	refusalsSuppressedMember = "suppressed"
)

// refusals limits the log lines of refused requests, by address and in total.
// Behind a proxy all have its address, and the limit by address is the one that
// holds.
type refusals struct {
	mu         sync.Mutex
	total      *rate.Limiter            // guarded by mu
	addresses  map[string]*rate.Limiter // guarded by mu
	suppressed int64                    // guarded by mu; since the last one that was told
	told       time.Time                // guarded by mu; when suppressed was last told
}

func newRefusals() *refusals {
	return &refusals{total: rate.NewLimiter(refusalsPerSecond, refusalsAtOnce), addresses: map[string]*rate.Limiter{}}
}

// admit reports whether the refusal of a request from an address is logged by
// itself. The caller must log suppressed, the number of those before that were
// not, when it is above 0.
func (r *refusals) admit(remote string, now time.Time) (ok bool, suppressed int64) {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	address := r.addresses[host]
	if address == nil {
		if len(r.addresses) >= maxAddresses {
			clear(r.addresses) // the limit in total holds
		}
		address = rate.NewLimiter(refusalsByAddress, refusalsByAddressAtOnce)
		r.addresses[host] = address
	}
	// An address that is over its limit takes nothing of that of all.
	if ok = address.AllowN(now, 1) && r.total.AllowN(now, 1); !ok {
		r.suppressed++
		if now.Sub(r.told) < refusalsSummaryInterval {
			return false, 0
		}
	}
	suppressed, r.suppressed, r.told = r.suppressed, 0, now
	return ok, suppressed
}

// rest returns how many are still to be told.
func (r *refusals) rest() (suppressed int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	suppressed, r.suppressed = r.suppressed, 0
	return suppressed
}

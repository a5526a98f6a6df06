package usage

import (
	"time"

	"golang.org/x/time/rate"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Limits bounds spending; 0 means no limit. Days and months are in UTC.
type Limits struct {
	JobCost, UserDayCost, UserMonthCost, DayCost, MonthCost dreamcore.Nano

	JobTokens, UserDayTokens, UserMonthTokens int64

	UserRequests int // per minute
}

func (l Limits) any() bool {
	l.UserRequests = 0
	return l != Limits{}
}

// sum is an amount of money and a number of tokens.
type sum struct {
	cost   dreamcore.Nano
	tokens int64
}

func (s sum) plus(o sum) sum {
	return sum{s.cost.Add(o.cost), int64(dreamcore.Nano(s.tokens).Add(dreamcore.Nano(o.tokens)))}
}

func (s sum) minus(o sum) sum { return sum{max(s.cost-o.cost, 0), max(s.tokens-o.tokens, 0)} }

// budget is what a user or the machine has spent, and what its running requests
// may still cost.
type budget struct{ day, month, reserved sum }

func (b *budget) reset(newMonth bool) {
	b.day = sum{}
	if newMonth {
		b.month = sum{}
	}
}

func (b *budget) add(s sum, today bool) {
	b.month = b.month.plus(s)
	if today {
		b.day = b.day.plus(s)
	}
}

// userBudget is the budget of a user.
type userBudget struct {
	budget
	rate    *rate.Limiter // of requests; nil before the first one
	highest sum           // of the requests that cost more than was reserved for them
}

// user returns the budget of a user. It must be called with mu held.
func (l *Ledger) user(name string) *userBudget {
	u := l.users[name]
	if u == nil {
		u = &userBudget{}
		l.users[name] = u
	}
	return u
}

// retryDelay is when to retry a request that may fit once the running ones have
// cost less than was reserved for them.
const retryDelay = time.Second

// Job is the account of one job.
type Job struct {
	ledger             *Ledger
	user, project, job string
	spent, reserved    sum // guarded by ledger.mu
}

// Job returns the account of a job. It need not be closed.
func (l *Ledger) Job(user, project, job string) *Job {
	return &Job{ledger: l, user: user, project: project, job: job}
}

// Resume is Job for a job that an earlier process has begun, at began. It counts
// what the job has spent since then, and returns that.
func (l *Ledger) Resume(user, project, job string, began time.Time) (*Job, dreamcore.Tokens, dreamcore.Nano, error) {
	j := l.Job(user, project, job)
	var tokens dreamcore.Tokens
	// The times of records are truncated.
	err := read(l.root, began.Add(-time.Second), func(r Record) {
		if r.Job == job && r.User == user {
			tokens, j.spent = tokens.Plus(r.Tokens()), j.spent.plus(sum{r.Cost, r.Tokens().Total()})
		}
	})
	return j, tokens, j.spent.cost, err
}

// Check reports whether the job may start: it returns *dreamcore.OverBudget if its
// user or the machine has reached a limit, CodeSetup if the ledger cannot be
// written.
func (j *Job) Check() error {
	l := j.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.ready(l.opts.Now()); err != nil {
		return err
	}
	err := j.overLimit()
	if err != nil && err.After > 0 {
		return nil // the running requests may cost less
	}
	if err != nil {
		return err
	}
	return nil
}

// ready reads the records of other processes, and returns an error where limits cannot be
// enforced because the ledger cannot be written. It must be called with mu held.
func (l *Ledger) ready(now time.Time) error {
	if err := l.advance(now); err != nil {
		return err
	}
	if err := l.catchUp(); err != nil {
		return err
	}
	if err := l.writeBacklog(); err != nil && (l.limits.any() || len(l.backlog) == maxBacklog) {
		return err
	}
	return nil
}

// overLimit returns the first limit that leaves no room for another request. A
// request is admitted as long as anything is left, and what the running requests
// may cost counts as spent: so a limit is exceeded by the cost of one request at
// most. It must be called with mu held.
func (j *Job) overLimit() *dreamcore.OverBudget {
	limits, l, u := j.ledger.limits, j.ledger, j.ledger.user(j.user)
	day, reservedToday := l.together(limits.DayCost, costOfDay)
	month, reservedInMonth := l.together(limits.MonthCost, costOfMonth)
	for _, c := range []struct {
		name     string
		limit    sum
		spent    sum
		reserved sum
	}{
		{"budget_job", sum{limits.JobCost, limits.JobTokens}, j.spent, j.reserved},
		{"budget_user_day", sum{limits.UserDayCost, limits.UserDayTokens}, u.day, u.reserved},
		{"budget_user_month", sum{limits.UserMonthCost, limits.UserMonthTokens}, u.month, u.reserved},
		{"budget_day", sum{limits.DayCost, 0}, day, reservedToday},
		{"budget_month", sum{limits.MonthCost, 0}, month, reservedInMonth},
	} {
		committed := c.spent.plus(c.reserved)
		for _, d := range []struct {
			unit                    string
			limit, spent, committed int64
		}{
			{"_usd", int64(c.limit.cost), int64(c.spent.cost), int64(committed.cost)},
			{"_tokens", c.limit.tokens, c.spent.tokens, committed.tokens},
		} {
			switch {
			case d.limit <= 0 || d.committed < d.limit:
			case d.spent >= d.limit:
				return &dreamcore.OverBudget{Limit: c.name + d.unit}
			default:
				return &dreamcore.OverBudget{Limit: c.name + d.unit, After: retryDelay}
			}
		}
	}
	return nil
}

// tooFast returns an error for a request that comes too soon after others of the
// user. It must be called with mu held.
func (j *Job) tooFast(now time.Time) error {
	perMinute := j.ledger.limits.UserRequests
	if perMinute <= 0 {
		return nil
	}
	c := j.ledger.user(j.user)
	if c.rate == nil {
		// A quarter of a minute's requests may come at once, as the agent's first
		// ones do.
		c.rate = rate.NewLimiter(rate.Limit(float64(perMinute)/60), max(perMinute/4, 1))
	}
	r := c.rate.ReserveN(now, 1)
	if wait := r.DelayFrom(now); wait > 0 {
		r.CancelAt(now)
		return &dreamcore.OverBudget{Limit: "user_requests", After: wait}
	}
	return nil
}

// Reserve reserves the cost of a request with about input tokens whose answer has
// at most output tokens. It refuses with a *dreamcore.OverBudget; any other error
// means that the ledger cannot be written. On success the caller reports the usage
// with update as it learns of it, the total each time, and ends the reservation
// with last. update returns the cost so far.
func (j *Job) Reserve(model string, input, output int64) (update func(s dreamcore.Spent, last bool) dreamcore.Nano, err error) {
	l := j.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.opts.Now()
	if err := l.ready(now); err != nil {
		return nil, err
	}
	if err := j.tooFast(now); err != nil {
		return nil, err
	}
	if err := j.overLimit(); err != nil {
		return nil, err
	}
	r := &request{job: j, model: model, price: l.priceOf(model)}
	// Nearly all input is written to the cache; the sandbox selects for how long.
	short, long := dreamcore.Tokens{CacheWrite: input, Output: output}, dreamcore.Tokens{CacheWrite1h: input, Output: output}
	// A workspace can have a region for inference as its default: only the answer
	// shows it.
	r.maximum = sum{regional(max(r.price.Cost(short), r.price.Cost(long))), short.Total()}
	// A model that reported more than its request could use may do so again.
	highest := l.user(j.user).highest
	r.maximum = sum{max(r.maximum.cost, highest.cost), max(r.maximum.tokens, highest.tokens)}
	r.reserve(r.maximum)
	return r.update, nil
}

// request is a running request.
type request struct {
	job     *Job
	model   string
	maximum sum // the most that it may cost

	price    Price            // guarded by ledger.mu
	reserved sum              // guarded by ledger.mu
	tokens   dreamcore.Tokens // guarded by ledger.mu; recorded so far
	cost     dreamcore.Nano   // guarded by ledger.mu; recorded so far
	written  bool             // guarded by ledger.mu
	ended    bool             // guarded by ledger.mu
}

// reserve sets the reservation of the request to s. It must be called with mu held.
func (r *request) reserve(s sum) {
	l := r.job.ledger
	for _, total := range []*sum{&r.job.reserved, &l.user(r.job.user).reserved, &l.machine.reserved} {
		*total = total.minus(r.reserved).plus(s)
	}
	r.reserved = s
}

func (r *request) update(s dreamcore.Spent, last bool) dreamcore.Nano {
	l := r.job.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.ended {
		return r.cost
	}
	now := l.opts.Now()
	if err := l.advance(now); err != nil {
		l.log.Error("begin a new day of the ledger", "error", err)
	}
	// The model that answered is the one that is billed: a sandbox could request a
	// cheap name that an upstream maps to an expensive model.
	if p, known := l.prices.Of(s.Model); known && s.Model != "" {
		r.price = p
	}
	// Records only ever add. Tokens that the model later reports as another kind
	// are counted as both.
	s.Tokens = s.Tokens.Max(r.tokens)
	delta, cost := s.Tokens.Minus(r.tokens), l.prices.withModels(r.price, s.Terms.Models).costOf(s.Tokens, s.Terms)
	// A request that used nothing, such as a refused one or a count of tokens, is
	// not recorded: otherwise a sandbox could fill the ledger at no cost.
	if delta != (dreamcore.Tokens{}) || cost > r.cost {
		rec := Record{
			Time: now.UTC().Truncate(time.Millisecond), User: r.job.user, Project: r.job.project, Job: r.job.job, Model: r.model, Upstream: s.Upstream,
			Input: delta.Input, Output: delta.Output, CacheWrite: delta.CacheWrite, CacheWrite1h: delta.CacheWrite1h, CacheRead: delta.CacheRead,
			Cost: max(cost-r.cost, 0), Estimated: s.Estimated,
		}
		if !r.written {
			rec.Requests = 1
		}
		l.write(rec)
		if l.opts.Observe != nil {
			l.opts.Observe(rec)
		}
		r.job.spent = r.job.spent.plus(sum{rec.Cost, delta.Total()})
		r.written, r.tokens, r.cost = true, s.Tokens, cost
	}
	r.ended = last
	if u := l.user(r.job.user); r.cost > r.maximum.cost || r.tokens.Total() > r.maximum.tokens {
		u.highest = sum{max(u.highest.cost, r.cost), max(u.highest.tokens, r.tokens.Total())}
	}
	left := r.maximum.minus(sum{r.cost, r.tokens.Total()})
	if last {
		left = sum{}
	}
	r.reserve(left)
	return r.cost
}

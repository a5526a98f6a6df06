package usage

import (
	"time"

	"golang.org/x/time/rate"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Limits of what may be spent; 0 is none. Days and months are those of UTC.
type Limits struct {
	JobCost, UserDayCost, UserMonthCost, DayCost, MonthCost dreamcore.Nano

	JobTokens, UserDayTokens, UserMonthTokens int64

	UserRequests int // a minute
}

func (l Limits) any() bool {
	l.UserRequests = 0
	return l != Limits{}
}

// sum is an amount of money and of tokens.
type sum struct {
	cost   dreamcore.Nano
	tokens int64
}

func (s sum) plus(o sum) sum {
	return sum{s.cost.Add(o.cost), int64(dreamcore.Nano(s.tokens).Add(dreamcore.Nano(o.tokens)))}
}

func (s sum) minus(o sum) sum { return sum{max(s.cost-o.cost, 0), max(s.tokens-o.tokens, 0)} }

// budget is what somebody has spent, and may yet spend on what runs.
type budget struct{ day, month, held sum }

func (b *budget) begin(newMonth bool) {
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

// customer is a user.
type customer struct {
	budget
	rate    *rate.Limiter // of requests; nil until it is asked
	dearest sum           // of the requests that cost more than was held for them
}

// customer returns the user's. b.mu is held.
func (b *Book) customer(user string) *customer {
	c := b.users[user]
	if c == nil {
		c = &customer{}
		b.users[user] = c
	}
	return c
}

// soon is when another try makes sense after a request that may fit once
// others, which run, have cost less than they might.
const soon = time.Second

// Job is the account of one job.
type Job struct {
	book               *Book
	user, project, job string
	spent, held        sum // guarded by book.mu
}

// Job opens the account of a job. Nothing needs to be closed.
func (b *Book) Job(user, project, job string) *Job {
	return &Job{book: b, user: user, project: project, job: job}
}

// Check tells whether the job may begin: *dreamcore.OverBudget if its user or
// the machine has spent what they may, CodeSetup if the books cannot be kept.
func (j *Job) Check() error {
	b := j.book
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.ready(b.opts.Now()); err != nil {
		return err
	}
	err := j.over()
	if err != nil && err.After > 0 {
		return nil // what runs may cost less
	}
	if err != nil {
		return err
	}
	return nil
}

// ready reads what others have spent, and refuses to go on where limits could
// not be kept because nothing can be written. b.mu is held.
func (b *Book) ready(now time.Time) error {
	if err := b.turn(now); err != nil {
		return err
	}
	if err := b.catchUp(); err != nil {
		return err
	}
	if err := b.writeBacklog(); err != nil && (b.limits.any() || len(b.backlog) == maxBacklog) {
		return err
	}
	return nil
}

// over returns the first limit that does not leave room for one more request.
// One is let in as long as anything is left: so a limit is passed by at most
// what one request may cost, since what the others that run may cost counts as
// spent. b.mu is held.
func (j *Job) over() *dreamcore.OverBudget {
	l, b, u := j.book.limits, j.book, j.book.customer(j.user)
	for _, c := range []struct {
		name  string
		limit sum
		spent sum
		held  sum
	}{
		{"budget_job", sum{l.JobCost, l.JobTokens}, j.spent, j.held},
		{"budget_user_day", sum{l.UserDayCost, l.UserDayTokens}, u.day, u.held},
		{"budget_user_month", sum{l.UserMonthCost, l.UserMonthTokens}, u.month, u.held},
		{"budget_day", sum{l.DayCost, 0}, b.machine.day, b.machine.held},
		{"budget_month", sum{l.MonthCost, 0}, b.machine.month, b.machine.held},
	} {
		with := c.spent.plus(c.held)
		for _, d := range []struct {
			unit               string
			limit, spent, with int64
		}{
			{"_usd", int64(c.limit.cost), int64(c.spent.cost), int64(with.cost)},
			{"_tokens", c.limit.tokens, c.spent.tokens, with.tokens},
		} {
			switch {
			case d.limit <= 0 || d.with < d.limit:
			case d.spent >= d.limit:
				return &dreamcore.OverBudget{Limit: c.name + d.unit}
			default:
				return &dreamcore.OverBudget{Limit: c.name + d.unit, After: soon}
			}
		}
	}
	return nil
}

// tooFast returns the refusal of a request that comes too soon after others of
// the user. b.mu is held.
func (j *Job) tooFast(now time.Time) error {
	perMinute := j.book.limits.UserRequests
	if perMinute <= 0 {
		return nil
	}
	c := j.book.customer(j.user)
	if c.rate == nil {
		// A quarter of a minute's requests may come at once: the agent's first
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

// Reserve asks whether a request may go out that has about so many tokens in
// it and answers with so many at most. The refusal is a *dreamcore.OverBudget;
// another error says that the books cannot be kept. Without one, the caller
// tells with settle what was used, as it learns of it, each time the whole; the
// last call ends the reservation. settle returns what it costs.
func (j *Job) Reserve(model string, input, output int64) (settle func(s dreamcore.Spent, last bool) dreamcore.Nano, err error) {
	b := j.book
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.opts.Now()
	if err := b.ready(now); err != nil {
		return nil, err
	}
	if err := j.tooFast(now); err != nil {
		return nil, err
	}
	if err := j.over(); err != nil {
		return nil, err
	}
	r := &request{job: j, model: model, price: b.priceOf(model)}
	// Nearly all is written to the cache, and the sandbox says for how long.
	short, long := dreamcore.Tokens{CacheWrite: input, Output: output}, dreamcore.Tokens{CacheWrite1h: input, Output: output}
	// A workspace can bind inference to a region: only the answer tells.
	r.most = sum{regional(max(r.price.Cost(short), r.price.Cost(long))), short.Total()}
	// A model that tells more than a request can have does so again.
	dearest := b.customer(j.user).dearest
	r.most = sum{max(r.most.cost, dearest.cost), max(r.most.tokens, dearest.tokens)}
	r.hold(r.most)
	return r.settle, nil
}

// request is one that runs.
type request struct {
	job   *Job
	model string
	most  sum // that it may cost

	price   Price            // guarded by book.mu
	held    sum              // guarded by book.mu
	tokens  dreamcore.Tokens // guarded by book.mu: that are in the books
	cost    dreamcore.Nano   // guarded by book.mu: likewise
	written bool             // guarded by book.mu
	ended   bool             // guarded by book.mu
}

// hold makes s what the request keeps from others. b.mu is held.
func (r *request) hold(s sum) {
	b := r.job.book
	for _, held := range []*sum{&r.job.held, &b.customer(r.job.user).held, &b.machine.held} {
		*held = held.minus(r.held).plus(s)
	}
	r.held = s
}

func (r *request) settle(s dreamcore.Spent, last bool) dreamcore.Nano {
	b := r.job.book
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.ended {
		return r.cost
	}
	now := b.opts.Now()
	if err := b.turn(now); err != nil {
		b.log.Error("begin a new day in the books", "error", err)
	}
	// What is paid for is what has answered: a sandbox could ask for a cheap name
	// that leads to a dear model.
	if p, known := b.prices.Of(s.Model); known && s.Model != "" {
		r.price = p
	}
	// Records only ever add. A model that says later that tokens are of another
	// kind has them counted as both.
	s.Tokens = s.Tokens.Max(r.tokens)
	delta, cost := s.Tokens.Minus(r.tokens), b.prices.withModels(r.price, s.Terms.Models).costOf(s.Tokens, s.Terms)
	// What used nothing, as refused requests and counts of tokens, is not in the
	// books: a sandbox could fill them at no cost.
	if delta != (dreamcore.Tokens{}) || cost > r.cost {
		rec := Record{
			Time: now.UTC().Truncate(time.Millisecond), User: r.job.user, Project: r.job.project, Job: r.job.job, Model: r.model, Upstream: s.Upstream,
			Input: delta.Input, Output: delta.Output, CacheWrite: delta.CacheWrite, CacheWrite1h: delta.CacheWrite1h, CacheRead: delta.CacheRead,
			Cost: max(cost-r.cost, 0), Estimated: s.Estimated,
		}
		if !r.written {
			rec.Requests = 1
		}
		b.write(rec)
		r.job.spent = r.job.spent.plus(sum{rec.Cost, delta.Total()})
		r.written, r.tokens, r.cost = true, s.Tokens, cost
	}
	r.ended = last
	if u := b.customer(r.job.user); r.cost > r.most.cost || r.tokens.Total() > r.most.tokens {
		u.dearest = sum{max(u.dearest.cost, r.cost), max(u.dearest.tokens, r.tokens.Total())}
	}
	left := r.most.minus(sum{r.cost, r.tokens.Total()})
	if last {
		left = sum{}
	}
	r.hold(left)
	return r.cost
}

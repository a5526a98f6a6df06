package gateway

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/audit"
)

// nopMeter counts nothing and refuses nothing.
type nopMeter struct{}

func (nopMeter) Reserve(string, int64, int64) (func(dreamcore.Spent, bool) dreamcore.Nano, error) {
	return func(dreamcore.Spent, bool) dreamcore.Nano { return 0 }, nil
}

// spending is what one exchange uses, told to the books and the grant.
type spending struct {
	report    func(dreamcore.Spent, bool) dreamcore.Nano // nil until reserved
	input     int64                                      // the most tokens that the prompt may have
	hour      bool                                       // a part of it may be cached for an hour
	spent     dreamcore.Spent
	cost      dreamcore.Nano
	output    int64     // the most that the answer may have
	asked     time.Time // the request is on its way since then; zero: it is not
	whole     bool      // the answer comes in one piece
	answering bool      // with status 200, or nobody waited to see
	free      bool      // the answer was only an error: nothing was made
	final     bool      // the answer said all that it used, or came to its end
}

// maxOutput is taken for the longest answer where a request does not say: more
// than any model gives.
const maxOutput = 128_000

// reserve asks the books whether the request may go out.
func (x *exchange) reserve(call *Call, p peek) *apiError {
	x.model = p.model
	if call.Path != messagesPath {
		x.use.input, p.output = 0, 0 // counting tokens is free
	} else {
		p.output = cmp.Or(p.output, maxOutput)
	}
	x.use.output, x.use.whole = p.output, !p.stream
	report, err := x.grant.meter.Reserve(p.model, x.use.input, p.output)
	if err == nil {
		x.use.report = report
		return nil
	}
	over, ok := errors.AsType[*dreamcore.OverBudget](err)
	switch {
	case !ok:
		x.grant.ledger.note(dreamcore.FailUnknown)
		x.grant.log.Log(x.client, x.grant.alarms.level(slog.LevelError), "the books cannot be kept: requests for the model are refused", "err", err)
		return never(503, "The service cannot keep its books.")
	case over.After > 0:
		x.grant.ledger.note(dreamcore.FailRateLimit)
		x.entry.Reason = over.Error()
		seconds := int64((over.After + time.Second - 1) / time.Second)
		return &apiError{status: 429, message: "Too many requests at this time.", retry: retryYes, after: strconv.FormatInt(seconds, 10)}
	default:
		// Players read what the CLI says of it: which limit is the operator's.
		x.grant.ledger.overBudget()
		x.entry.Reason = over.Error()
		return never(429, "The limit of what may be used is reached.")
	}
}

// used tells the books what the answer is known to have used so far.
func (x *exchange) used(t tokens, estimated bool) {
	regional := x.use.spent.Terms.Regional // by the upstream
	x.use.spent.Tokens, x.use.spent.Terms = t.spent(x.use.hour), t.terms()
	x.use.spent.Terms.Regional = x.use.spent.Terms.Regional || regional
	x.use.spent.Estimated = x.use.spent.Estimated || estimated
	x.report(false)
}

// tell brings the books and the grant up to date.
func (x *exchange) report(last bool) {
	if x.use.report == nil {
		return
	}
	cost := x.use.report(x.use.spent, last)
	delta := cost - x.use.cost
	x.use.cost = cost
	x.grant.ledger.count(func(u *Usage) { u.Cost = u.Cost.Add(delta) })
}

// outputPerSecond is how many tokens of an answer a model makes in a second, at
// most: the vendor's fastest models make 200 to 300, fast mode included.
const outputPerSecond = 500

// made is how many tokens of output the model may have made by now.
func (x *exchange) maxOutputSoFar() int64 {
	return min(int64(time.Since(x.use.asked).Seconds()*outputPerSecond), x.use.output)
}

// endSpending ends the reservation, at the end of the exchange in any case.
func (x *exchange) endSpending() {
	if x.use.report == nil {
		return
	}
	if x.use.answering && !x.use.free && x.counts {
		x.estimate()
	}
	x.report(true)
	t := x.use.spent.Tokens
	x.grant.ledger.count(func(u *Usage) { u.Tokens = u.Tokens.Plus(t) })
}

// estimate fills in what an answer did not say. The prompt of one that did not
// come so far, or whose server does not tell, has the most that was sent, all of
// it written to the cache. The output of one that was cut off, by the client or
// on its way, has what the model may have made since it was asked: thinking may
// be hidden, so the bytes that came are no bound.
func (x *exchange) estimate() {
	s := &x.use.spent
	if s.Tokens.Prompt() == 0 {
		s.Estimated = true
		if x.use.hour {
			s.Tokens.CacheWrite1h = x.use.input
		} else {
			s.Tokens.CacheWrite = x.use.input
		}
	}
	if made := x.maxOutputSoFar(); !x.use.final && made > s.Tokens.Output {
		s.Tokens.Output, s.Estimated = made, true
	}
}

// record writes the exchange into the audit log, at its end in any case.
func (x *exchange) record(call *Call, received int64) {
	e := &x.entry
	e.Event, e.Method, e.Target = audit.EventModel, "POST", call.Path
	e.Model, e.Upstream = x.model, x.use.spent.Upstream
	e.BytesOut, e.BytesIn = int64(len(call.Body)), received
	e.Tokens, e.Cost = x.use.spent.Tokens, x.use.cost
	switch {
	case e.Verdict != "":
	case x.use.asked.IsZero():
		e.Verdict = audit.Refused
	case x.gone():
		e.Verdict, e.Reason = audit.Allowed, "the sandbox did not wait for the end"
	default:
		e.Verdict = audit.Allowed
	}
	x.grant.record(*e)
}

// record adds whose request it was.
func (gr *Grant) record(e audit.Entry) {
	e.Job, e.User, e.Project, e.Sandbox = gr.job, gr.user, gr.project, gr.sandbox
	gr.socket.gw.cfg.Audit.Record(e)
}

// refused notes the refusal of a request for the audit log.
func (x *exchange) refused(e *apiError) {
	x.entry.Verdict, x.entry.Status, x.entry.Reason = audit.Refused, e.status, cmp.Or(x.entry.Reason, e.message)
}

// failedWith notes a failure of the model for the audit log.
func (x *exchange) failedWith(status int, reason any) {
	x.entry.Verdict, x.entry.Status, x.entry.Reason = audit.Failed, status, fmt.Sprint(reason)
}

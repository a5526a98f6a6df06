package gateway

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Usage is what the requests of a grant have used so far.
type Usage struct {
	Requests      int64 // sent to the model, whatever became of them
	Tokens        dreamcore.Tokens
	Cost          dreamcore.Nano // 0 without a Meter
	BytesSent     int64          // request bodies
	BytesReceived int64          // answer bodies
}

// Meter keeps the books of one job, and says what it may yet spend.
type Meter interface {
	// Reserve is asked before a request goes out that has about so many tokens
	// in it and answers with so many at most. It refuses with a
	// *dreamcore.OverBudget; another error says that the books cannot be kept.
	// settle is told the whole of what was used, each time it has grown, and
	// with last once at the end; it returns what that costs.
	Reserve(model string, input, output int64) (report func(s dreamcore.Spent, last bool) dreamcore.Nano, err error)
}

// tokens is the usage member of a message. The numbers come from outside.
type tokens struct {
	Input         int64
	Output        int64
	CacheCreation int64 // for any time
	CacheRead     int64
	CacheHour     int64 // of CacheCreation: kept for an hour
	CacheShort    int64 // of CacheCreation: kept for five minutes
	Searches      int64 // of the web
	Executions    int64 // of code
	Fast          bool
	Regional      bool
	Models        string // that worked on the answer, as the iterations name them; a list with newlines
}

// maxTokens bounds one number, so that sums cannot overflow.
const maxTokens = 1 << 40

// merge takes over the numbers of a later report of the same message: they are
// totals, and those that are left out have not changed.
func (t *tokens) merge(later tokens) {
	t.Input = max(t.Input, later.Input)
	t.Output = max(t.Output, later.Output)
	t.CacheCreation = max(t.CacheCreation, later.CacheCreation)
	t.CacheRead = max(t.CacheRead, later.CacheRead)
	t.CacheHour = max(t.CacheHour, later.CacheHour)
	t.CacheShort = max(t.CacheShort, later.CacheShort)
	t.Searches = max(t.Searches, later.Searches)
	t.Executions = max(t.Executions, later.Executions)
	t.Fast, t.Regional = t.Fast || later.Fast, t.Regional || later.Regional
	t.addModels(later.Models)
}

// add adds the numbers of another pass over the prompt.
func (t *tokens) add(pass tokens) {
	sum := *t
	sum.merge(pass)
	for _, n := range []struct {
		sum  *int64
		a, b int64
	}{
		{&sum.Input, t.Input, pass.Input}, {&sum.Output, t.Output, pass.Output},
		{&sum.CacheCreation, t.CacheCreation, pass.CacheCreation}, {&sum.CacheRead, t.CacheRead, pass.CacheRead},
		{&sum.CacheHour, t.CacheHour, pass.CacheHour}, {&sum.CacheShort, t.CacheShort, pass.CacheShort},
		{&sum.Searches, t.Searches, pass.Searches}, {&sum.Executions, t.Executions, pass.Executions},
	} {
		*n.sum = min(n.a+n.b, maxTokens)
	}
	*t = sum
}

const (
	// maxPasses bounds the passes of one answer that are looked at.
	maxPasses = 1000
	// maxModels bounds how many models worked on one answer.
	maxModels = 8
)

// addModels adds names of models that are not there yet.
func (t *tokens) addModels(names string) {
	for name := range strings.SplitSeq(names, "\n") {
		have := strings.Split(t.Models, "\n")
		if name == "" || len(name) > maxModel || len(have) >= maxModels || slices.Contains(have, name) {
			continue
		}
		t.Models = strings.TrimPrefix(t.Models+"\n"+name, "\n")
	}
}

// terms is what changes the price of the tokens.
func (t tokens) terms() dreamcore.Terms {
	terms := dreamcore.Terms{Fast: t.Fast, Regional: t.Regional, Searches: t.Searches, Executions: t.Executions}
	if t.Models != "" {
		terms.Models = strings.Split(t.Models, "\n")
	}
	return terms
}

// spent tells the tokens apart by their price. What was written to the cache
// for a time that is not said was so for an hour if the request has any such.
func (t tokens) spent(asksForHour bool) dreamcore.Tokens {
	hour := min(t.CacheHour, t.CacheCreation)
	if rest := t.CacheCreation - hour - t.CacheShort; (asksForHour || hour > 0) && rest > 0 {
		hour += rest
	}
	return dreamcore.Tokens{Input: t.Input, Output: t.Output, CacheWrite: t.CacheCreation - hour, CacheWrite1h: hour, CacheRead: t.CacheRead}
}

// members returns the members of a JSON object, each undecoded; nil for
// anything else. Every member is then read on its own, so that one of an
// unexpected type does not hide the others.
func members(raw []byte) map[string]json.RawMessage {
	var v map[string]json.RawMessage
	if json.Unmarshal(raw, &v) != nil {
		return nil
	}
	return v
}

// textOf returns the string that raw is, "" for anything else.
func textOf(raw json.RawMessage) string {
	var s string
	if len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// numberOf returns the count that raw is, in any spelling that proxies use
// (100, 100.0, 1e2, "100"), within 0 and maxTokens; 0 for anything else.
func numberOf(raw json.RawMessage) int64 {
	s := string(raw)
	if strings.HasPrefix(s, `"`) {
		s = strings.TrimSpace(textOf(raw))
	}
	if s == "" || len(s) > 64 || strings.Trim(s, "0123456789+-.eE") != "" {
		return 0
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return min(max(n, 0), maxTokens)
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil && !math.IsInf(f, 0) || !(f > 0) {
		return 0
	}
	return int64(math.Ceil(min(f, maxTokens)))
}

// usageOf reads a usage member. Where the answer took several passes, such as a
// summary of the conversation or another model in place of one that refused, the
// iterations list each of them, and the numbers at the top may leave some out:
// the larger of both counts, of each kind.
func usageOf(raw json.RawMessage) (t tokens) {
	u := members(raw)
	if u == nil {
		return t
	}
	t = countsOf(u)
	var passes []json.RawMessage
	if json.Unmarshal(u["iterations"], &passes) != nil {
		return t
	}
	var sum tokens
	for _, pass := range passes[:min(len(passes), maxPasses)] {
		p := members(pass)
		c := countsOf(p)
		c.addModels(strings.ReplaceAll(textOf(p["model"]), "\n", " "))
		sum.add(c)
	}
	t.merge(sum)
	return t
}

// countsOf reads the numbers of one usage object, and what changes their price.
func countsOf(u map[string]json.RawMessage) (t tokens) {
	t = tokens{
		Input: numberOf(u["input_tokens"]), Output: numberOf(u["output_tokens"]),
		CacheCreation: numberOf(u["cache_creation_input_tokens"]), CacheRead: numberOf(u["cache_read_input_tokens"]),
	}
	byTime := members(u["cache_creation"])
	t.CacheHour = numberOf(byTime["ephemeral_1h_input_tokens"])
	// The parts and the whole should agree; where one is left out the other counts.
	t.CacheShort = numberOf(byTime["ephemeral_5m_input_tokens"])
	parts := min(t.CacheHour+t.CacheShort, maxTokens)
	t.CacheCreation = max(t.CacheCreation, parts, numberOf(u["cache_creation"]))
	// Details are parts of the whole, which could be left out.
	t.Output = max(t.Output, numberOf(members(u["output_tokens_details"])["thinking_tokens"]))
	tools := members(u["server_tool_use"])
	t.Searches, t.Executions = numberOf(tools["web_search_requests"]), numberOf(tools["code_execution_requests"])
	t.Fast = isSurcharged(u["speed"], "standard")
	t.Regional = isSurcharged(u["inference_geo"], "global", "not_available")
	return t
}

// isSurcharged reports whether a member says anything but what is usual.
func isSurcharged(raw json.RawMessage, usual ...string) bool {
	return !isStandard(raw, append(usual, ""))
}

// metricsOf reads what Bedrock adds to the end of a stream.
func metricsOf(raw json.RawMessage) tokens {
	u := members(raw)
	return tokens{
		Input: numberOf(u["inputTokenCount"]), Output: numberOf(u["outputTokenCount"]),
		CacheCreation: numberOf(u["cacheWriteInputTokenCount"]), CacheRead: numberOf(u["cacheReadInputTokenCount"]),
	}
}

// fill takes over the numbers of another report where there are none.
func (t *tokens) fill(other tokens) {
	if t.Input == 0 && t.CacheCreation == 0 && t.CacheRead == 0 {
		t.Input, t.CacheCreation, t.CacheRead = other.Input, other.CacheCreation, other.CacheRead
	}
	t.Output = max(t.Output, other.Output)
}

// maxMeterBody bounds the answer in one piece that is kept for its usage.
const maxMeterBody = 4 << 20

// bodyMeter reads the usage of an answer in one piece.
type bodyMeter struct {
	kept    []byte
	tooLong bool
}

func (m *bodyMeter) feed(p []byte) {
	if m.tooLong || len(m.kept)+len(p) > maxMeterBody {
		m.kept, m.tooLong = nil, true
		return
	}
	m.kept = append(m.kept, p...)
}

// tokens returns what the whole answer says. Half of one says nothing, and some
// servers do not tell: known is false.
func (m *bodyMeter) tokens() (t tokens, known bool) {
	t = usageOf(members(m.kept)["usage"])
	return t, t.spent(false).Total() > 0
}

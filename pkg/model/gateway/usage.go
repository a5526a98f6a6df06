package gateway

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Usage is the usage of a grant so far.
type Usage struct {
	Requests      int64 // sent to the model, successful or not
	Tokens        dreamcore.Tokens
	Cost          dreamcore.Nano // 0 without a Meter
	BytesSent     int64          // request bodies
	BytesReceived int64          // answer bodies
}

// Meter is the ledger of one job and enforces its budget.
type Meter interface {
	// Reserve is called before a request is sent. input and output are upper
	// bounds of the tokens in the request and in its answer. It refuses with a
	// *dreamcore.OverBudget; any other error means that the ledger cannot be
	// written. The caller must call report with the total usage of the request
	// each time it has grown, and once with last set at the end; report returns
	// the cost so far.
	Reserve(model string, input, output int64) (report func(s dreamcore.Spent, last bool) dreamcore.Nano, err error)
}

// tokens is the usage member of a message. The numbers are untrusted.
type tokens struct {
	Input         int64
	Output        int64
	CacheCreation int64 // for any time
	CacheRead     int64
	CacheHour     int64 // part of CacheCreation: cached for an hour
	CacheShort    int64 // part of CacheCreation: cached for five minutes
	Searches      int64 // web searches
	Executions    int64 // code executions
	Fast          bool
	Regional      bool
	Models        string // models named by the iterations, separated by newlines
}

// counts returns the numbers of t.
func (t *tokens) counts() []*int64 {
	return []*int64{&t.Input, &t.Output, &t.CacheCreation, &t.CacheRead, &t.CacheHour, &t.CacheShort, &t.Searches, &t.Executions}
}

// maxTokens bounds one number, so that sums cannot overflow.
const maxTokens = 1 << 40

// merge applies a later report of the same message: its numbers are totals, and
// missing ones have not changed.
func (t *tokens) merge(later tokens) {
	t.combine(later, func(a, b int64) int64 { return max(a, b) })
}

// add adds the numbers of another pass over the prompt.
func (t *tokens) add(pass tokens) {
	t.combine(pass, func(a, b int64) int64 { return min(a+b, maxTokens) })
}

func (t *tokens) combine(other tokens, op func(a, b int64) int64) {
	numbers := t.counts()
	for i, n := range other.counts() {
		*numbers[i] = op(*numbers[i], *n)
	}
	t.Fast, t.Regional = t.Fast || other.Fast, t.Regional || other.Regional
	t.addModels(other.Models)
}

const (
	// maxPasses bounds the passes of one answer that are read.
	maxPasses = 1000
	// maxModels bounds the models of one answer.
	maxModels = 8
)

// addModels adds the names of models that are not in the list yet.
func (t *tokens) addModels(names string) {
	for name := range strings.SplitSeq(names, "\n") {
		have := strings.Split(t.Models, "\n")
		if name == "" || len(name) > maxModel || len(have) >= maxModels || slices.Contains(have, name) {
			continue
		}
		t.Models = strings.TrimPrefix(t.Models+"\n"+name, "\n")
	}
}

// terms returns the parts of the usage that affect the price of the tokens.
func (t tokens) terms() dreamcore.Terms {
	terms := dreamcore.Terms{Fast: t.Fast, Regional: t.Regional, Searches: t.Searches, Executions: t.Executions}
	if t.Models != "" {
		terms.Models = strings.Split(t.Models, "\n")
	}
	return terms
}

// spent returns the tokens by price category. Cache writes without a duration
// count as an hour if the request or the answer mentions an hour.
func (t tokens) spent(asksForHour bool) dreamcore.Tokens {
	hour := min(t.CacheHour, t.CacheCreation)
	if unknown := t.CacheCreation - hour - t.CacheShort; (asksForHour || hour > 0) && unknown > 0 {
		hour += unknown
	}
	return dreamcore.Tokens{Input: t.Input, Output: t.Output, CacheWrite: t.CacheCreation - hour, CacheWrite1h: hour, CacheRead: t.CacheRead}
}

// members returns the undecoded members of a JSON object, or nil for any other
// value. Each member is decoded on its own, so that one of an unexpected type
// does not hide the others.
func members(raw []byte) map[string]json.RawMessage {
	var v map[string]json.RawMessage
	if json.Unmarshal(raw, &v) != nil {
		return nil
	}
	return v
}

// textOf returns the JSON string in raw, or "" for any other value.
func textOf(raw json.RawMessage) string {
	var s string
	if len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// numberOf returns the count in raw, in any notation that proxies use (100,
// 100.0, 1e2, "100"), limited to 0 to maxTokens. It is 0 for any other value.
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

// usageOf reads a usage member. If the answer took several passes (such as a
// summary of the conversation, or another model after one that refused), the
// iterations list each of them, and the numbers at the top may omit some: for
// each number, the larger of the two counts.
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

// countsOf reads the numbers and price terms of one usage object.
func countsOf(u map[string]json.RawMessage) (t tokens) {
	t = tokens{
		Input: numberOf(u["input_tokens"]), Output: numberOf(u["output_tokens"]),
		CacheCreation: numberOf(u["cache_creation_input_tokens"]), CacheRead: numberOf(u["cache_read_input_tokens"]),
	}
	byTime := members(u["cache_creation"])
	t.CacheHour = numberOf(byTime["ephemeral_1h_input_tokens"])
	// The parts and the total should agree; if one is missing, the other counts.
	t.CacheShort = numberOf(byTime["ephemeral_5m_input_tokens"])
	parts := min(t.CacheHour+t.CacheShort, maxTokens)
	t.CacheCreation = max(t.CacheCreation, parts, numberOf(u["cache_creation"]))
	// The details are part of the total, which may be missing.
	t.Output = max(t.Output, numberOf(members(u["output_tokens_details"])["thinking_tokens"]))
	tools := members(u["server_tool_use"])
	t.Searches, t.Executions = numberOf(tools["web_search_requests"]), numberOf(tools["code_execution_requests"])
	t.Fast = isSurcharged(u["speed"], "standard")
	t.Regional = isSurcharged(u["inference_geo"], "global", "not_available")
	return t
}

// isSurcharged reports whether a member has any other than the standard values.
func isSurcharged(raw json.RawMessage, standard ...string) bool {
	return !isStandard(raw, append(standard, ""))
}

// metricsOf reads the numbers that Bedrock adds to the end of a stream.
func metricsOf(raw json.RawMessage) tokens {
	u := members(raw)
	return tokens{
		Input: numberOf(u["inputTokenCount"]), Output: numberOf(u["outputTokenCount"]),
		CacheCreation: numberOf(u["cacheWriteInputTokenCount"]), CacheRead: numberOf(u["cacheReadInputTokenCount"]),
	}
}

// fill uses the numbers of another report for those that are missing.
func (t *tokens) fill(other tokens) {
	if t.Input == 0 && t.CacheCreation == 0 && t.CacheRead == 0 {
		t.Input, t.CacheCreation, t.CacheRead = other.Input, other.CacheCreation, other.CacheRead
	}
	t.Output = max(t.Output, other.Output)
}

// maxMeterBody bounds an answer that is kept for reading its usage.
const maxMeterBody = 4 << 20

// bodyMeter reads the usage of an answer that is not streamed.
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

// tokens returns the usage in the complete answer. known is false if the answer
// is incomplete or does not report its usage.
func (m *bodyMeter) tokens() (t tokens, known bool) {
	t = usageOf(members(m.kept)["usage"])
	return t, t.spent(false).Total() > 0
}

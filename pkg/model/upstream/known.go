package upstream

import (
	"bytes"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
)

// A cloud rejects a whole request for one beta flag or one field that it does not
// know, and the agent uses the vendor's newest API. So flags and fields that a
// cloud is not known to accept are removed: each of them makes an answer better or
// cheaper, none is required.

// known holds the beta flags that a cloud accepts, according to its
// documentation.
type known []string

var (
	bedrockKnows = known{
		"computer-use-2025-01-24", "token-efficient-tools-2025-02-19", "interleaved-thinking-2025-05-14", "output-128k-2025-02-19",
		"dev-full-thinking-2025-05-14", "context-1m-2025-08-07", "context-management-2025-06-27", "effort-2025-11-24",
		"tool-search-tool-2025-10-19", "tool-examples-2025-10-29", "claude-code-20250219", "fine-grained-tool-streaming-2025-05-14",
	}
	vertexKnows = known{
		"computer-use-2025-01-24", "interleaved-thinking-2025-05-14", "context-1m-2025-08-07", "context-management-2025-06-27",
		"tool-search-tool-2025-10-19",
	}
)

// shape says which members of an object clouds accept. The shape of a list is the
// one of the objects in it.
type shape struct {
	members []string          // nil accepts all
	gated   bool              // may have gatedMembers
	inner   map[string]*shape // of the values of members; the others are unchanged
}

// gatedMembers require a beta.
var gatedMembers = map[string]string{
	"context_management":    "context-management-2025-06-27",
	"output_config":         "effort-2025-11-24",
	"defer_loading":         "tool-search-tool-2025-10-19",
	"input_examples":        "tool-examples-2025-10-29",
	"eager_input_streaming": "fine-grained-tool-streaming-2025-05-14",
}

var (
	cacheShape   = map[string]*shape{"cache_control": {members: []string{"type", "ttl"}}}
	contentShape = newContentShape()
	toolShape    = &shape{members: []string{"type", "name", "description", "input_schema", "cache_control"}, gated: true, inner: cacheShape}
	// vendorToolShape is for the vendor's own tools: each has different members.
	vendorToolShape = &shape{gated: true, inner: cacheShape}

	bodyShape = &shape{
		members: []string{
			"model", "messages", "system", "max_tokens", "metadata", "stop_sequences", "stream", "temperature", "top_k", "top_p",
			"tools", "tool_choice", "thinking", versionMember, betaMember,
		},
		gated: true,
		inner: map[string]*shape{
			"thinking": {members: []string{"type", "budget_tokens"}},
			"system":   contentShape,
			"tools":    toolShape,
			"messages": {members: []string{"role", "content"}, inner: map[string]*shape{"content": contentShape}},
		},
	}
)

// newContentShape returns the shape of a block of content, which may contain
// blocks.
func newContentShape() *shape {
	block := &shape{inner: maps.Clone(cacheShape)}
	block.inner["content"] = block
	return block
}

// split divides the beta flags of a request, which may be in several headers.
func (k known) split(h http.Header) (kept, dropped []string) {
	for _, line := range h.Values("Anthropic-Beta") {
		for beta := range strings.SplitSeq(line, ",") {
			beta = strings.TrimSpace(beta)
			switch {
			case beta == "" || slices.Contains(kept, beta) || slices.Contains(dropped, beta):
			case slices.Contains(k, beta):
				kept = append(kept, beta)
			default:
				dropped = append(dropped, beta)
			}
		}
	}
	return kept, dropped
}

// filter returns call with only the flags and members that the cloud accepts, and
// the names of those removed.
func (k known) filter(call gateway.Call) (filtered gateway.Call, dropped []string) {
	kept, dropped := k.split(call.Header)
	call.Header = call.Header.Clone()
	call.Header.Del("Anthropic-Beta")
	if len(kept) > 0 {
		call.Header.Set("Anthropic-Beta", strings.Join(kept, ","))
	}
	p := pruner{betas: kept}
	for _, beta := range dropped {
		p.drop(beta)
	}
	call.Body = p.object(call.Body, bodyShape)
	return call, p.dropped
}

// maxDropped bounds the list of removed names, which come from a sandbox.
const maxDropped = 32

// pruner copies a body without members that a cloud does not know. Every byte of
// the others is unchanged.
type pruner struct {
	betas   []string // of the request, which enable gatedMembers
	dropped []string
}

// object returns an object without the members that s does not accept. Any other
// value than an object is unchanged.
func (p *pruner) object(value []byte, s *shape) []byte {
	if s == toolShape && isVendorTool(value) {
		s = vendorToolShape
	}
	if s == contentShape && !bytes.Contains(value, []byte(`"cache_control"`)) {
		return value // as most are: then nested values are not read once more for each level
	}
	return rewrite(value, nil, func(name string, old []byte) []byte {
		accepted := s.members == nil || slices.Contains(s.members, name)
		if beta, ok := gatedMembers[name]; ok && s.gated {
			accepted = slices.Contains(p.betas, beta)
		}
		inner := s.inner[name]
		switch {
		case !accepted:
			p.drop(name)
			return nil
		case inner == nil:
			return old
		case old[0] == '[':
			return p.list(old, inner)
		case old[0] == '{':
			return p.object(old, inner)
		}
		return old
	})
}

// list applies s to the elements of a list.
func (p *pruner) list(value []byte, s *shape) []byte {
	var out bytes.Buffer
	last := 0 // offset in value of the first byte that is not in out yet
	for at, old := range gateway.Elements(value) {
		if changed := p.object(old, s); !bytes.Equal(changed, old) {
			if last == 0 {
				out.Grow(len(value))
			}
			out.Write(value[last:at])
			out.Write(changed)
			last = at + len(old)
		}
	}
	if last == 0 {
		return value
	}
	out.Write(value[last:])
	return out.Bytes()
}

func (p *pruner) drop(name string) {
	if name == "" || len(name) > 64 {
		name = "a member with a long name"
	}
	if len(p.dropped) < maxDropped && !slices.Contains(p.dropped, name) {
		p.dropped = append(p.dropped, name)
	}
}

// isVendorTool reports whether the vendor defines the tool, such as
// bash_20250124.
func isVendorTool(tool []byte) bool {
	for m := range gateway.Members(tool) {
		if m.Name == "type" {
			kind := string(tool[m.Value:m.End])
			return kind != `"custom"` && kind != "null"
		}
	}
	return false
}

// dropLog logs each name that is not sent to a cloud once.
type dropLog struct {
	logger *slog.Logger
	entry  string

	mu     sync.Mutex
	logged map[string]bool // guarded by mu
}

// maxLogged bounds the remembered names, which come from a sandbox.
const maxLogged = 256

func (l *dropLog) log(names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var fresh []string
	for _, n := range names {
		if !l.logged[n] && len(l.logged) < maxLogged {
			if l.logged == nil {
				l.logged = map[string]bool{}
			}
			l.logged[n] = true
			fresh = append(fresh, n)
		}
	}
	if len(fresh) > 0 {
		l.logger.Debug("flags or fields that the cloud is not known to accept are not sent", "upstream", l.entry, "left_out", fresh)
	}
}

package upstream

import (
	"bytes"
	"log/slog"
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
type known struct{ betas []string }

// Members that clouds accept.
var (
	bodyMembers = []string{
		"model", "messages", "system", "max_tokens", "metadata", "stop_sequences", "stream", "temperature", "top_k", "top_p",
		"tools", "tool_choice", "thinking", versionMember, betaMember,
	}
	messageMembers  = []string{"role", "content"}
	thinkingMembers = []string{"type", "budget_tokens"}
	cacheMembers    = []string{"type", "ttl"}
	toolMembers     = []string{"type", "name", "description", "input_schema", "cache_control"}
	// gatedMembers require a beta. They occur at the top of the body or in a tool.
	gatedMembers = map[string]string{
		"context_management":    "context-management-2025-06-27",
		"output_config":         "effort-2025-11-24",
		"defer_loading":         "tool-search-tool-2025-10-19",
		"input_examples":        "tool-examples-2025-10-29",
		"eager_input_streaming": "fine-grained-tool-streaming-2025-05-14",
	}

	bedrockKnows = known{[]string{
		"computer-use-2025-01-24", "token-efficient-tools-2025-02-19", "interleaved-thinking-2025-05-14", "output-128k-2025-02-19",
		"dev-full-thinking-2025-05-14", "context-1m-2025-08-07", "context-management-2025-06-27", "effort-2025-11-24",
		"tool-search-tool-2025-10-19", "tool-examples-2025-10-29", "claude-code-20250219", "fine-grained-tool-streaming-2025-05-14",
	}}
	vertexKnows = known{[]string{
		"computer-use-2025-01-24", "interleaved-thinking-2025-05-14", "context-1m-2025-08-07", "context-management-2025-06-27",
		"tool-search-tool-2025-10-19",
	}}
)

// split divides the beta flags of a request, which may be in several headers.
func (k known) split(h http.Header) (kept, dropped []string) {
	for _, line := range h.Values("Anthropic-Beta") {
		for beta := range strings.SplitSeq(line, ",") {
			beta = strings.TrimSpace(beta)
			switch {
			case beta == "" || slices.Contains(kept, beta) || slices.Contains(dropped, beta):
			case slices.Contains(k.betas, beta):
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
	call.Body = p.object(call.Body, bodyMembers, true, p.top)
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

// object keeps the given members of an object; inner may rewrite their values.
// Any other value than an object is unchanged.
func (p *pruner) object(value []byte, members []string, gates bool, inner func(name string, value []byte) []byte) []byte {
	var out *bytes.Buffer // nil until the first change
	last := 0             // offset in value of the end of the last unchanged member
	first := true         // no member was kept yet
	for m := range gateway.Members(value) {
		keep := slices.Contains(members, m.Name)
		if beta, ok := gatedMembers[m.Name]; ok && gates {
			keep = slices.Contains(p.betas, beta)
		}
		old := value[m.Value:m.End]
		changed := old
		if keep && inner != nil {
			changed = inner(m.Name, old)
		}
		if keep && out == nil && len(changed) == len(old) && &changed[0] == &old[0] {
			first, last = false, m.End
			continue
		}
		if out == nil {
			out = bytes.NewBuffer(make([]byte, 0, len(value)))
			if first {
				out.WriteByte('{')
			} else {
				out.Write(value[:last])
			}
		}
		if !keep {
			p.drop(m.Name)
			continue
		}
		if !first {
			out.WriteByte(',')
		}
		first = false
		out.Write(value[m.Start:m.Value])
		out.Write(changed)
	}
	if out == nil {
		return value
	}
	out.WriteByte('}')
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

// list rewrites the elements of a list. Any other value is unchanged.
func (p *pruner) list(value []byte, inner func([]byte) []byte) []byte {
	if value[0] != '[' {
		return value
	}
	var out *bytes.Buffer
	last := 0
	for at, old := range gateway.Elements(value) {
		changed := inner(old)
		if len(changed) == len(old) && &changed[0] == &old[0] {
			continue
		}
		if out == nil {
			out = bytes.NewBuffer(make([]byte, 0, len(value)))
		}
		out.Write(value[last:at])
		out.Write(changed)
		last = at + len(old)
	}
	if out == nil {
		return value
	}
	out.Write(value[last:])
	return out.Bytes()
}

// top rewrites a member of the body.
func (p *pruner) top(name string, value []byte) []byte {
	switch name {
	case "thinking":
		return p.object(value, thinkingMembers, false, nil)
	case "system":
		return p.list(value, p.block)
	case "tools":
		return p.list(value, func(tool []byte) []byte {
			members := toolMembers
			if isVendorTool(tool) {
				members = memberNames(tool) // each has different ones
			}
			return p.object(tool, members, true, p.cacheControl)
		})
	case "messages":
		return p.list(value, func(message []byte) []byte {
			return p.object(message, messageMembers, false, func(name string, content []byte) []byte {
				if name == "content" {
					return p.list(content, p.block)
				}
				return content
			})
		})
	}
	return value
}

// block rewrites the cache control of a block of content and of its nested
// blocks.
func (p *pruner) block(block []byte) []byte {
	if !bytes.Contains(block, []byte(`"cache_control"`)) {
		return block
	}
	return p.object(block, memberNames(block), false, func(name string, value []byte) []byte {
		if name == "content" {
			return p.list(value, p.block)
		}
		return p.cacheControl(name, value)
	})
}

// cacheControl rewrites the member cache_control.
func (p *pruner) cacheControl(name string, value []byte) []byte {
	if name == "cache_control" {
		return p.object(value, cacheMembers, false, nil)
	}
	return value
}

func memberNames(object []byte) (names []string) {
	for m := range gateway.Members(object) {
		names = append(names, m.Name)
	}
	return names
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

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

// A cloud refuses a whole request for one beta flag or one field that it does
// not know, and the agent speaks the vendor's newest API. So what a cloud is
// not known to take is left out: each of these makes an answer better or
// cheaper, none is needed for it.

// known is what a cloud takes of the Messages API, as its documentation says.
type known struct {
	betas []string
	// members of the body, and of what is in it; those that belong to a beta
	// are in gated, with it.
	body, message, thinking, cache, tool []string
	gated                                map[string]string
}

var (
	bodyMembers = []string{
		"model", "messages", "system", "max_tokens", "metadata", "stop_sequences", "stream", "temperature", "top_k", "top_p",
		"tools", "tool_choice", "thinking", versionMember, betaMember,
	}
	messageMembers  = []string{"role", "content"}
	thinkingMembers = []string{"type", "budget_tokens"}
	cacheMembers    = []string{"type", "ttl"}
	toolMembers     = []string{"type", "name", "description", "input_schema", "cache_control"}
	// gatedMembers come with a beta: at the top of the body, or in a tool.
	gatedMembers = map[string]string{
		"context_management":    "context-management-2025-06-27",
		"output_config":         "effort-2025-11-24",
		"defer_loading":         "tool-search-tool-2025-10-19",
		"input_examples":        "tool-examples-2025-10-29",
		"eager_input_streaming": "fine-grained-tool-streaming-2025-05-14",
	}

	bedrockKnows = &known{
		betas: []string{
			"computer-use-2025-01-24", "token-efficient-tools-2025-02-19", "interleaved-thinking-2025-05-14", "output-128k-2025-02-19",
			"dev-full-thinking-2025-05-14", "context-1m-2025-08-07", "context-management-2025-06-27", "effort-2025-11-24",
			"tool-search-tool-2025-10-19", "tool-examples-2025-10-29", "claude-code-20250219", "fine-grained-tool-streaming-2025-05-14",
		},
		body: bodyMembers, message: messageMembers, thinking: thinkingMembers, cache: cacheMembers, tool: toolMembers, gated: gatedMembers,
	}
	vertexKnows = &known{
		betas: []string{
			"computer-use-2025-01-24", "interleaved-thinking-2025-05-14", "context-1m-2025-08-07", "context-management-2025-06-27",
			"tool-search-tool-2025-10-19",
		},
		body: bodyMembers, message: messageMembers, thinking: thinkingMembers, cache: cacheMembers, tool: toolMembers, gated: gatedMembers,
	}
)

// split sorts the beta flags of a request, however they are written.
func (k *known) split(h http.Header) (kept, dropped []string) {
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

// filter returns call with the flags and members that the cloud takes, and the
// names of what was left out.
func (k *known) filter(call gateway.Call) (filtered gateway.Call, dropped []string) {
	kept, dropped := k.split(call.Header)
	call.Header = call.Header.Clone()
	call.Header.Del("Anthropic-Beta")
	if len(kept) > 0 {
		call.Header.Set("Anthropic-Beta", strings.Join(kept, ","))
	}
	p := pruner{known: k, betas: kept}
	for _, beta := range dropped {
		p.drop(beta)
	}
	call.Body = p.object(call.Body, k.body, true, p.top)
	return call, p.dropped
}

// maxDropped bounds the list of what was left out: names come from a sandbox.
const maxDropped = 32

// pruner writes a body anew without what a cloud does not know. What stays,
// stays as it is, byte by byte.
type pruner struct {
	*known
	betas   []string
	dropped []string
}

// object keeps the members of an object that are known; inner may rewrite the
// value of one. Anything else than an object stays.
func (p *pruner) object(value []byte, members []string, gates bool, inner func(name string, value []byte) []byte) []byte {
	var out *bytes.Buffer // of a copy, once something is changed
	last := 0             // of value, up to here it is in out
	first := true         // no member was kept yet
	for m := range gateway.Members(value) {
		keep := slices.Contains(members, m.Name)
		if beta, ok := p.gated[m.Name]; ok && gates {
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

// list rewrites the elements of a list. Anything else stays.
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
		return p.object(value, p.thinking, false, nil)
	case "system":
		return p.list(value, p.block)
	case "tools":
		return p.list(value, func(tool []byte) []byte {
			members := p.tool
			if all := memberNames(tool); isVendorTool(tool) {
				members = all // each has its own
			}
			return p.object(tool, members, true, p.marked)
		})
	case "messages":
		return p.list(value, func(message []byte) []byte {
			return p.object(message, p.message, false, func(name string, content []byte) []byte {
				if name == "content" {
					return p.list(content, p.block)
				}
				return content
			})
		})
	}
	return value
}

// block rewrites a block of content: what it says stays, and what is in it.
func (p *pruner) block(block []byte) []byte {
	if !bytes.Contains(block, []byte(`"cache_control"`)) {
		return block
	}
	return p.object(block, memberNames(block), false, func(name string, value []byte) []byte {
		if name == "content" {
			return p.list(value, p.block)
		}
		return p.marked(name, value)
	})
}

// marked rewrites how long what is marked is cached.
func (p *pruner) marked(name string, value []byte) []byte {
	if name == "cache_control" {
		return p.object(value, p.cache, false, nil)
	}
	return value
}

func memberNames(object []byte) (names []string) {
	for m := range gateway.Members(object) {
		names = append(names, m.Name)
	}
	return names
}

// isVendorTool reports whether a tool is one that the vendor has defined, such
// as bash_20250124.
func isVendorTool(tool []byte) bool {
	for m := range gateway.Members(tool) {
		if m.Name == "type" {
			kind := string(tool[m.Value:m.End])
			return kind != `"custom"` && kind != "null"
		}
	}
	return false
}

// dropLog tells of each name once that a cloud is not sent.
type dropLog struct {
	log   *slog.Logger
	entry string

	mu   sync.Mutex
	told map[string]bool // guarded by mu
}

// maxTold bounds what is remembered: names come from a sandbox.
const maxTold = 256

func (l *dropLog) tell(names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var fresh []string
	for _, n := range names {
		if !l.told[n] && len(l.told) < maxTold {
			if l.told == nil {
				l.told = map[string]bool{}
			}
			l.told[n] = true
			fresh = append(fresh, n)
		}
	}
	if len(fresh) > 0 {
		l.log.Debug("the cloud is not sent what it is not known to take", "upstream", l.entry, "left_out", fresh)
	}
}

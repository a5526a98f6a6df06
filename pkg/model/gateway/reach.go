package gateway

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
)

// A sandbox has no network, and must not have the vendor's instead: the API
// can be asked to search the web, to fetch an address, to run code on a machine
// of the vendor or to talk to an MCP server, and each of these carries off what
// the sandbox puts into it. So a request may only have what the model itself
// needs, unless Config.ServerTools allows the rest.

// externalMessage is the refusal of a request that would reach beyond the model.
const externalMessage = "This request would let the model's API reach other machines (a tool that it runs itself, an MCP server, or a document by its address); the operator has not allowed that (server_tools)."

// clientTools are the beginnings of the types of tools that the client runs
// itself: the API does no more than name them. A tool without a type is one,
// too. What is not here is refused, also what comes to be one day.
var clientTools = []string{"custom", "bash_", "text_editor_", "computer_", "memory_", "tool_search_tool_"}

// inlineSources are the types of sources whose content is in the request.
var inlineSources = []string{"base64", "text", "content"}

// maxExternalDepth bounds the depth to which a body is looked at; json.Valid has
// refused what is deeper than ten thousand, and the API takes nothing like it.
const maxExternalDepth = 64

// reaches tells whether a body, which is valid JSON, asks for more than the
// model.
func isExternal(body []byte) bool {
	far, _ := inspect(body)
	return far
}

// look is reaches, and what the body has beside text, up to where it reaches
// beyond the model.
func inspect(body []byte) (far bool, a attached) {
	for m := range Members(body) {
		value := body[m.Value:m.End]
		switch m.Name {
		case "mcp_servers", "container":
			if !isEmpty(value) {
				return true, a
			}
		case "tools":
			if isExternalTool(value) {
				return true, a
			}
		default:
			if w := (externalWalk{scanner: scanner{b: body, i: m.Value}, attached: &a}); w.external() {
				return true, a
			}
		}
	}
	return false, a
}

// isEmpty tells whether a value says nothing: null, or a list or object without
// content.
func isEmpty(value []byte) bool {
	switch s := strings.Join(strings.Fields(string(value[:min(len(value), 64)])), ""); s {
	case "null", "[]", "{}":
		return true
	}
	return false
}

// isExternalTool tells whether one of the tools is not the client's own.
func isExternalTool(list []byte) bool {
	if list[0] != '[' {
		return list[0] != 'n' // null is none; anything else is nothing we know
	}
	for _, item := range Elements(list) {
		if item[0] != '{' {
			return true
		}
		for m := range Members(item) {
			value := item[m.Value:m.End]
			switch m.Name {
			case "type":
				var kind string
				if string(value) == "null" {
					continue
				}
				if len(value) > 1024 || json.Unmarshal(value, &kind) != nil || !slices.ContainsFunc(clientTools, func(c string) bool { return strings.HasPrefix(kind, c) }) {
					return true
				}
			}
		}
	}
	return false
}

// walk looks for sources whose content is not in the request, such as
// {"type":"url",…} or a file of the operator's account, and for what is an MCP
// server's, at any depth. What a tool was called with, and what it may be
// called with, is the client's own. It passes over the text once.
type externalWalk struct {
	scanner
	depth, sources int // of what is open
	attached       *attached
}

// maxSources bounds sources inside each other: a document made of blocks has
// images in it. Each is read twice.
const maxSources = 3

// foreign steps over the value at the current place and tells whether there is
// something foreign in it.
func (w *externalWalk) external() bool {
	if w.depth++; w.depth > maxExternalDepth {
		return true
	}
	defer func() { w.depth-- }()
	switch w.first() {
	case '[':
		w.i++
		for w.first() != ']' {
			if w.external() {
				return true
			}
		}
		w.i++
	case '{':
		w.i++
		for w.first() != '}' {
			if w.member() {
				return true
			}
		}
		w.i++
	default:
		w.value()
	}
	return false
}

// member is foreign for one member of an object.
func (w *externalWalk) member() bool {
	switch name := w.name(); name {
	case "input", "input_schema":
		w.first()
		w.value()
		return false
	case "mcp_server_name", "server_name":
		return true
	case "source":
		if w.first() != '{' {
			break
		}
		w.sources++
		defer func() { w.sources-- }()
		at := w.i
		source := w.value()
		if w.sources > maxSources || !isInline(source) {
			return true
		}
		w.attached.count(source)
		w.i = at
	}
	return w.external()
}

// name steps over the name of a member and returns it, "" for a long one.
func (w *externalWalk) name() string {
	quoted := w.value()
	if len(quoted) > 32 && bytes.IndexByte(quoted, '\\') < 0 {
		return ""
	}
	if bytes.IndexByte(quoted, '\\') < 0 {
		return string(quoted[1 : len(quoted)-1])
	}
	return memberName(quoted)
}

// isOwn tells whether the content of a source is in the request. Each type that
// it says must be one of those, since parsers differ in which one counts.
func isInline(source []byte) bool {
	typed := false
	for m := range Members(source) {
		if m.Name != "type" {
			continue
		}
		var kind string
		if m.End-m.Value > 256 || json.Unmarshal(source[m.Value:m.End], &kind) != nil || !slices.Contains(inlineSources, kind) {
			return false
		}
		typed = true
	}
	return typed
}

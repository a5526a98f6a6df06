package gateway

import (
	"encoding/json"
	"slices"
	"strings"
)

// A sandbox has no network, and must not use the vendor's instead: the API can
// search the web, fetch a URL, run code on a machine of the vendor or connect to
// an MCP server, and each of these can carry data out of the sandbox. So a
// request may contain only what the model itself needs, unless
// Config.ServerTools allows more.

// externalMessage refuses a request that accesses more than the model.
const externalMessage = "This request would let the model's API reach other machines (a tool that it runs itself, an MCP server, or a document by its address); the operator has not allowed that (server_tools)."

// clientTools are the type prefixes of tools that the client runs itself: the
// API only names them. A tool without a type is one too. All others are refused,
// including those that do not exist yet.
var clientTools = []string{"custom", "bash_", "text_editor_", "computer_", "memory_", "tool_search_tool_"}

// inlineSources are the types of sources whose content is in the request.
var inlineSources = []string{"base64", "text", "content"}

// maxExternalDepth bounds the depth to which a body is inspected; deeper ones
// are refused. json.Valid rejects a depth over ten thousand, and the API accepts
// nothing like it.
const maxExternalDepth = 64

// isExternal reports whether a body, which is valid JSON, requests access to
// more than the model.
func isExternal(body []byte) bool {
	external, _ := inspect(body)
	return external
}

// inspect returns isExternal, and the attachments of the body up to the first
// external access.
func inspect(body []byte) (external bool, a attached) {
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

// isEmpty reports whether a value is null, or an empty list or object.
func isEmpty(value []byte) bool {
	switch s := strings.Join(strings.Fields(string(value[:min(len(value), 64)])), ""); s {
	case "null", "[]", "{}":
		return true
	}
	return false
}

// isExternalTool reports whether one of the tools does not run on the client.
func isExternalTool(list []byte) bool {
	if list[0] != '[' {
		return list[0] != 'n' // null means no tools; anything else is unknown
	}
	for _, item := range Elements(list) {
		if item[0] != '{' {
			return true
		}
		if _, ok := checkTypes(item, func(kind string) bool {
			return kind == "null" || slices.ContainsFunc(clientTools, func(c string) bool { return strings.HasPrefix(kind, `"`+c) })
		}); !ok {
			return true
		}
	}
	return false
}

// maxTypeBytes bounds the JSON of a type.
const maxTypeBytes = 256

// checkTypes reports whether an object has a member "type", and whether allowed
// accepts each of them, as compact JSON without escapes: parsers differ in which
// of several counts.
func checkTypes(object []byte, allowed func(kind string) bool) (typed, ok bool) {
	for m := range Members(object) {
		if m.Name != "type" {
			continue
		}
		var kind any
		if m.End-m.Value > maxTypeBytes || json.Unmarshal(object[m.Value:m.End], &kind) != nil {
			return true, false
		}
		plain, err := json.Marshal(kind)
		if err != nil || !allowed(string(plain)) {
			return true, false
		}
		typed = true
	}
	return typed, true
}

// externalWalk looks for sources whose content is not in the request, such as
// {"type":"url",…} or a file of the operator's account, and for members of an
// MCP server, at any depth. The input of a tool and its schema are the client's
// own data. It reads the text once.
type externalWalk struct {
	scanner
	depth, sources int // nesting at the current position
	attached       *attached
}

// maxSources bounds nested sources: a document made of blocks may contain
// images. Each is read twice.
const maxSources = 3

// external skips the value at the current position and reports whether it
// contains an external access.
func (w *externalWalk) external() bool {
	if w.depth++; w.depth > maxExternalDepth {
		return true
	}
	defer func() { w.depth-- }()
	switch w.first() {
	case '[':
		for range w.each('[', ']') {
			if w.external() {
				return true
			}
		}
	case '{':
		for range w.each('{', '}') {
			if w.member() {
				return true
			}
		}
	default:
		w.value()
	}
	return false
}

// member is external for one member of an object.
func (w *externalWalk) member() bool {
	switch memberName(w.value()) {
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

// isInline reports whether the content of a source is in the request.
func isInline(source []byte) bool {
	typed, ok := checkTypes(source, func(kind string) bool { return slices.Contains(inlineSources, strings.Trim(kind, `"`)) })
	return typed && ok
}

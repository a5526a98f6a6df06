package gateway

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestExternalAccessIsDetected(t *testing.T) {
	message := func(content string) string {
		return `{"model":"m","messages":[{"role":"user","content":` + content + `}],"max_tokens":5}`
	}
	tool := func(tool string) string { return `{"model":"m","tools":[{"name":"x","input_schema":{}},` + tool + `]}` }
	for name, body := range map[string]string{
		"an image by its address":  message(`[{"type":"image","source":{"type":"url","url":"https://evil.example/x?data"}}]`),
		"with escapes":             message(`[{"type":"image","\u0073ource":{"t\u0079pe":"u\u0072l","url":"x"}}]`),
		"two types":                message(`[{"source":{"type":"base64","type":"url","url":"x"}}]`),
		"no type":                  message(`[{"source":{"url":"x"}}]`),
		"a file of the account":    message(`[{"type":"document","source":{"type":"file","file_id":"x"}}]`),
		"in the result of a tool":  message(`[{"type":"tool_result","content":[{"type":"image","source":{"type":"url","url":"x"}}]}]`),
		"in a document of blocks":  message(`[{"type":"document","source":{"type":"content","content":[{"type":"image","source":{"type":"url","url":"x"}}]}}]`),
		"after white space":        message(" [ { \n\"source\"\t:\r{ \"type\" : \"url\" } } ]"),
		"in the system prompt":     `{"system":[{"type":"document","source":{"type":"url","url":"x"}}]}`,
		"what a server was called": message(`[{"type":"mcp_tool_use","server_name":"x","input":{}}]`),
		"too deep":                 message(strings.Repeat("[", 80) + strings.Repeat("]", 80)),
		"sources in sources":       message(strings.Repeat(`{"source":{"type":"content","content":`, 5) + "1" + strings.Repeat("}}", 5)),
		"MCP servers":              `{"mcp_servers":[{"type":"url","url":"https://evil.example","name":"x"}]}`,
		"a container":              `{"container":{"skills":[]}}`,
		"web search":               tool(`{"type":"web_search_20250305","name":"web_search"}`),
		"web fetch":                tool(`{"type":"web_fetch_20250910","name":"web_fetch"}`),
		"code execution":           tool(`{"type":"code_execution_20250825","name":"x"}`),
		"a toolset":                tool(`{"type":"mcp_toolset","mcp_server_name":"x"}`),
		"a tool of two types":      tool(`{"type":"custom","type":"web_search_20250305"}`),
		"a tool to come":           tool(`{"type":"teleport_20270101"}`),
		"a tool that is no object": tool(`"web_search"`),
		"tools that are no list":   `{"tools":{"type":"web_search_20250305"}}`,
	} {
		if !json.Valid([]byte(body)) {
			t.Fatal(name)
		}
		if !isExternal([]byte(body)) {
			t.Errorf("%s passes: %s", name, body)
		}
	}
	for name, body := range map[string]string{
		"text":                    message(`"https://example.com/ is a url, source and mcp_servers too"`),
		"an image in it":          message(`[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA"}}]`),
		"a document in it":        message(`[{"type":"document","source":{"type":"content","content":[{"type":"image","source":{"type":"base64","data":"AA"}}]}}]`),
		"what a tool is called":   message(`[{"type":"tool_use","name":"x","input":{"source":{"type":"url"},"server_name":"x"}}]`),
		"what a tool may be":      tool(`{"type":"custom","name":"x","input_schema":{"properties":{"source":{"type":"string"}}}}`),
		"tools of the client":     tool(`{"type":"bash_20250124","name":"bash"},{"type":"text_editor_20250728","name":"e"},{"type":null}`),
		"a source that is text":   message(`[{"type":"search_result","source":"https://example.com"}]`),
		"no servers":              `{"mcp_servers":[],"container":null,"tools":[]}`,
		"no tools":                `{"tools":null}`,
		"ordinary fields to come": `{"thinking":{"type":"adaptive"},"context_management":{"edits":[{"type":"clear_x"}]},"output_config":{"format":{}}}`,
	} {
		if !json.Valid([]byte(body)) {
			t.Fatal(name)
		}
		if isExternal([]byte(body)) {
			t.Errorf("%s is refused: %s", name, body)
		}
	}
}

func TestExternalAccessIsRefused(t *testing.T) {
	const body = `{"model":"m","mcp_servers":[{"type":"url","url":"x"}]}`
	for _, allowed := range []bool{false, true} {
		r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"usage":{}}`)
		}, func(c *Config) { c.ServerTools = allowed })
		a := r.post(body)
		if want := map[bool]int{false: 403, true: 200}[allowed]; a.status != want {
			t.Errorf("allowed %v: %d %s", allowed, a.status, a.body)
		}
	}
}

func FuzzIsExternal(f *testing.F) {
	for _, s := range []string{`{"messages":[{"source":{"type":"url"}}]}`, `{"tools":[{"type":"custom"}],"mcp_servers":[]}`, `{"a":{"input":{"source":{}}},"b":[1,"x",null]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if !json.Valid(body) || len(strings.TrimSpace(string(body))) == 0 || strings.TrimSpace(string(body))[0] != '{' {
			return
		}
		inner := isExternal(body)
		// External access is detected at any position and alongside anything else.
		if wrapped := fmt.Sprintf(`{"model":"m","messages":[{"content":%s}]}`, body); !isExternal([]byte(wrapped)) && inner && externalAnywhere(body) {
			t.Errorf("%s is foreign, inside a message it is not", body)
		}
	})
}

// externalAnywhere ignores members that are external only at the top of a body.
func externalAnywhere(body []byte) bool {
	w := externalWalk{scanner: scanner{b: body}, attached: &attached{}}
	return w.external()
}

func BenchmarkIsExternal(b *testing.B) {
	text := strings.Repeat(`{"role":"user","content":[{"type":"text","text":"`+strings.Repeat("let a = 1; ", 100)+`"}]},`, 80)
	body := []byte(`{"model":"m","tools":[{"name":"x","input_schema":{}}],"messages":[` + strings.TrimSuffix(text, ",") + `]}`)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if isExternal(body) {
			b.Fatal("foreign")
		}
	}
}

package replay

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"strings"
)

// demoFiles is the demo: the game as separate files, which can be opened and
// edited, and a script whose Write calls name them.
//
//go:embed demo
var demoFiles embed.FS

// Demo returns the embedded script: it writes a snake game for the first prompt,
// makes it faster for the second, and extends it for every later one.
func Demo() *Script {
	s, err := assembleDemo()
	if err != nil {
		panic("replay: embedded demo: " + err.Error()) // cannot happen: a test parses the embedded files
	}
	return s
}

// assembleDemo replaces each "{{file:NAME}}" by the content of the file.
func assembleDemo() (*Script, error) {
	script, err := demoFiles.ReadFile("demo/script.json")
	if err != nil {
		return nil, err
	}
	entries, err := demoFiles.ReadDir("demo")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		mark := []byte(`"{{file:` + e.Name() + `}}"`)
		if !bytes.Contains(script, mark) {
			continue
		}
		content, err := demoFiles.ReadFile("demo/" + e.Name())
		if err != nil {
			return nil, err
		}
		var quoted bytes.Buffer
		enc := json.NewEncoder(&quoted)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(string(content)); err != nil {
			return nil, fmt.Errorf("quote %s: %w", e.Name(), err)
		}
		script = bytes.ReplaceAll(script, mark, bytes.TrimSpace(quoted.Bytes()))
	}
	if _, rest, found := strings.Cut(string(script), "{{file:"); found {
		name, _, _ := strings.Cut(rest, "}}")
		return nil, fmt.Errorf("script.json names a missing file: %s", clip(name))
	}
	return Parse(script)
}

package replay

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"strings"
)

// demoFiles is the demo: the game as real files, so that they can be opened
// and edited as such, and a script whose Write calls name them.
//
//go:embed demo
var demoFiles embed.FS

// Demo returns the embedded script: it writes a snake game on the first
// prompt, makes it faster on the second, and adds to it on every later one.
func Demo() *Script {
	s, err := assembleDemo()
	if err != nil {
		panic("replay: embedded demo: " + err.Error()) // the files are compiled in; a test parses them
	}
	return s
}

// assembleDemo puts the files of the game in the place of "{{file:NAME}}".
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
		return nil, fmt.Errorf("script.json names a file that is not there: %s", clip(name))
	}
	return Parse(script)
}

package replay

import (
	"bytes"
	"embed"
	"fmt"
	"strings"
)

// demoFiles is the demo: the game as separate files, which can be opened and
// edited, and a script whose Write calls name them.
//
//go:embed demo demo-repair
var demoFiles embed.FS

// Demo returns the embedded script: it writes a snake game for the first prompt,
// makes it faster for the second, and extends it for every later one.
func Demo() *Script {
	return embedded(DemoName)
}

// DemoRepair returns the embedded script whose first game has a mistake: when the
// prompt has the finding of a check, the model mends it.
func DemoRepair() *Script { return embedded(DemoRepairName) }

// IsDemo reports whether name is that of an embedded script.
func IsDemo(name string) bool { return name == DemoName || name == DemoRepairName }

func embedded(name string) *Script {
	s, err := assembleDemo(name)
	if err != nil {
		panic("replay: embedded " + name + ": " + err.Error()) // cannot happen: a test parses the embedded files
	}
	return s
}

// assembleDemo replaces each "{{file:NAME}}" in the script of a demo by the content
// of the file.
func assembleDemo(dir string) (*Script, error) {
	script, err := demoFiles.ReadFile(dir + "/script.json")
	if err != nil {
		return nil, err
	}
	entries, err := demoFiles.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		mark := []byte(`"{{file:` + e.Name() + `}}"`)
		if !bytes.Contains(script, mark) {
			continue
		}
		content, err := demoFiles.ReadFile(dir + "/" + e.Name())
		if err != nil {
			return nil, err
		}
		script = bytes.ReplaceAll(script, mark, encode(string(content)))
	}
	if _, rest, found := strings.Cut(string(script), "{{file:"); found {
		name, _, _ := strings.Cut(rest, "}}")
		return nil, fmt.Errorf("script.json names a missing file: %s", clip(name))
	}
	return Parse(script)
}

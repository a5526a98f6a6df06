package config

import (
	"fmt"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// sampleFile returns the sample file: every setting with its default and its help.
func sampleFile() string {
	var b strings.Builder
	b.WriteString(comment("Every setting of dreamcore with its default. Copy the lines that you change into config.yaml in the state directory, or name the file with --config; a setting that is left out keeps its default. The environment (DREAMCORE_ and the key in upper case, such as DREAMCORE_LISTEN) and flags take precedence over the file. This file is generated from the table in pkg/config."))
	for _, s := range sections() {
		fmt.Fprintf(&b, "\n# ---- %s ----\n", s.title)
		for _, setting := range s.settings {
			b.WriteString("\n" + comment(setting.Help))
			if setting.Example != "" {
				b.WriteString("#\n# " + strings.ReplaceAll(setting.Example, "\n", "\n# ") + "\n")
			}
			fmt.Fprintf(&b, "%s: %s\n", setting.Key, inline(setting.sample()))
		}
	}
	return b.String()
}

// referencePage returns the page of the documentation about settings, in Markdown.
func referencePage() string {
	var b strings.Builder
	for _, s := range sections() {
		fmt.Fprintf(&b, "\n## %s\n", s.title)
		for _, setting := range s.settings {
			fmt.Fprintf(&b, "\n**`%s`** = `%s`", setting.Key, inline(setting.sample()))
			if setting.Flag != "" {
				fmt.Fprintf(&b, " · flag `--%s`", setting.Flag)
			}
			if setting.Live {
				b.WriteString(" · live")
			}
			b.WriteString("\\\n" + setting.Help + "\n")
			if setting.Example != "" {
				b.WriteString("\n```yaml\n" + setting.Example + "\n```\n")
			}
		}
	}
	return b.String()
}

// sample is the default as the sample shows it.
func (s Setting) sample() any {
	if s.Key == "state" {
		return defaultState(nil, true)
	}
	return s.Default
}

// inline returns a value as YAML on one line.
func inline(v any) string {
	if d, ok := v.(time.Duration); ok {
		return strings.Replace(strings.Replace(d.String(), "m0s", "m", 1), "h0m", "h", 1)
	}
	var node yaml.Node
	if err := node.Encode(v); err != nil {
		panic(err)
	}
	node.Style = yaml.FlowStyle
	raw, err := yaml.Marshal(&node)
	if err != nil {
		panic(err)
	}
	return strings.TrimSpace(string(raw))
}

// comment wraps text in lines of a YAML comment.
func comment(text string) string {
	var b strings.Builder
	line := "#"
	for _, word := range strings.Fields(text) {
		if len(line)+1+len(word) > 79 {
			b.WriteString(line + "\n")
			line = "#"
		}
		line += " " + word
	}
	return b.String() + line + "\n"
}

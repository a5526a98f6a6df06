package config

import (
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Setting describes one setting. The table of settings is the only place that
// knows a key: defaults, checks, what a running service takes up, the sample file,
// the page of the documentation and the texts of flags come from it.
type Setting struct {
	Key      string
	Default  any    // of the type of the field of Config
	Live     bool   // a running service takes up a change
	Help     string // plain text, one paragraph
	Example  string // YAML that the sample shows as a comment; optional
	Flag     string // the flag that sets it on some commands, without dashes; optional
	FlagHelp string // one line for the command line

	// check returns what the value must be, or "" if it is valid; nil if Validate
	// checks it together with other settings.
	check func(v any) string
}

type section struct {
	title    string
	settings []Setting
}

// Settings returns every setting in the order of the documentation.
func Settings() []Setting {
	var all []Setting
	for _, s := range sections() {
		all = append(all, s.settings...)
	}
	return all
}

// LookupSetting returns the setting with this key. It panics for an unknown key.
func LookupSetting(key string) Setting {
	for _, s := range Settings() {
		if s.Key == key {
			return s
		}
	}
	panic("no setting " + key)
}

// value returns the value of a setting.
func (c Config) value(key string) any {
	v := reflect.ValueOf(c)
	for i := range v.NumField() {
		if v.Type().Field(i).Tag.Get(tag) == key {
			return v.Field(i).Interface()
		}
	}
	panic("no setting " + key)
}

// checks returns the faults of single settings.
func (c Config) checks() (faults []string) {
	for _, s := range Settings() {
		if s.check == nil {
			continue
		}
		if must := s.check(c.value(s.Key)); must != "" {
			faults = append(faults, fmt.Sprintf("%s: %s %s", s.Key, quoted(c.value(s.Key)), must))
		}
	}
	return faults
}

func quoted(v any) string {
	if s, ok := v.(string); ok {
		return fmt.Sprintf("%q", s)
	}
	return fmt.Sprint(v)
}

// between checks a number. zero is the meaning of 0 if that is valid outside of
// the bounds; "" if it is not.
func between(low, high int, zero string) func(any) string {
	must := fmt.Sprintf("must be between %d and %d", low, high)
	if zero != "" {
		must += ", or 0 for " + zero
	}
	return verdict(must, func(v int) bool { return v >= low && v <= high || v == 0 && zero != "" })
}

func fractions(low, high float64) func(any) string {
	return verdict(fmt.Sprintf("must be between %v and %v", low, high), func(v float64) bool { return v >= low && v <= high })
}

func atLeast(low time.Duration) func(any) string {
	return verdict(fmt.Sprintf("must be at least %v", low), func(v time.Duration) bool { return v >= low })
}

func lasting(low, high time.Duration) func(any) string {
	return verdict(fmt.Sprintf("must be between %v and %v", low, high), func(v time.Duration) bool { return v >= low && v <= high })
}

func oneOf(words ...string) func(any) string {
	last := len(words) - 1
	return verdict("must be "+strings.Join(words[:last], ", ")+" or "+words[last], func(v string) bool { return slices.Contains(words, v) })
}

func optional(check func(any) string) func(any) string {
	return func(v any) string {
		if v == "" {
			return ""
		}
		return check(v)
	}
}

var (
	absolutePath = verdict("must be an absolute path", filepath.IsAbs)
	address      = verdict("must be HOST:PORT", isAddress)
	modelName    = verdict("is not the name of a model", func(v string) bool { return !strings.HasPrefix(v, "-") && !strings.ContainsAny(v, " \t\n") })
	id           = verdict("must not be root and must be below 2147483648", func(v int) bool { return v > 0 && v < 1<<31 })
	notNegative  = verdict("must not be negative", func(v int) bool { return v >= 0 })
	// The comparison is false for NaN. Less than a millionth would be rounded to 0,
	// which is no limit.
	dollars = verdict("must be an amount of dollars up to 1000000000, or 0 for no limit", func(v float64) bool { return v == 0 || v >= 1e-6 && v <= maxUSD })
)

func verdict[T any](must string, valid func(T) bool) func(any) string {
	return func(v any) string {
		if valid(v.(T)) {
			return ""
		}
		return must
	}
}

// Sample returns the sample file: every setting with its default and its help.
func Sample() string {
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

// Reference returns the page of the documentation about settings, in Markdown.
func Reference() string {
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

// TakeUp returns c with those settings of next that a running service can take
// up. The others are tied to open resources; they need a restart.
func (c Config) TakeUp(next Config) Config {
	to, from := reflect.ValueOf(&c).Elem(), reflect.ValueOf(next)
	live := liveSettings()
	for i := range to.NumField() {
		if live[to.Type().Field(i).Tag.Get(tag)] {
			to.Field(i).Set(from.Field(i))
		}
	}
	return c
}

// NeedRestart returns the settings in which next differs from c and that a
// running service cannot take up, in the order of the fields of Config.
func (c Config) NeedRestart(next Config) []string {
	var names []string
	a, b := reflect.ValueOf(c), reflect.ValueOf(next)
	live := liveSettings()
	for i := range a.NumField() {
		name := a.Type().Field(i).Tag.Get(tag)
		if !live[name] && !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			names = append(names, name)
		}
	}
	return names
}

func liveSettings() map[string]bool {
	live := map[string]bool{}
	for _, s := range Settings() {
		live[s.Key] = s.Live
	}
	return live
}

func defaults(env map[string]string, root bool) map[string]any {
	all := map[string]any{}
	for _, s := range Settings() {
		all[s.Key] = s.Default
		if m, ok := s.Default.(map[string]any); ok {
			all[s.Key] = maps.Clone(m) // layers are merged into it
		}
	}
	all["state"] = defaultState(env, root)
	return all
}

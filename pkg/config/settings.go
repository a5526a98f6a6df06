package config

import (
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Setting describes one setting. The table of settings is the only place that
// knows a key: defaults, checks, what a running service takes up, the sample file,
// the page of the documentation and the texts of flags come from it.
type Setting struct {
	Key      string
	Default  any      // of the type of the field of Config
	Live     bool     // a running service takes up a change
	Help     string   // plain text, one paragraph
	Example  string   // YAML that the sample shows as a comment; optional
	Flag     string   // the flag that sets it on some commands, without dashes; optional
	FlagHelp string   // one line for the command line
	Words    []string // the valid values, if they are few; check is derived from them

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
	for i, s := range all {
		if len(s.Words) > 0 {
			all[i].check = oneOf(s.Words...)
		}
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

// fields returns the fields of c by the keys of their settings.
func (c *Config) fields() map[string]reflect.Value {
	fields := map[string]reflect.Value{}
	for f, v := range reflect.ValueOf(c).Elem().Fields() {
		fields[f.Tag.Get(tag)] = v
	}
	return fields
}

// checks returns the faults of single settings.
func (c Config) checks() (faults []string) {
	fields := c.fields()
	for _, s := range Settings() {
		if s.check == nil {
			continue
		}
		v := fields[s.Key]
		if must := s.check(v.Interface()); must != "" {
			format := "%s: %v %s"
			if v.Kind() == reflect.String {
				format = "%s: %q %s"
			}
			faults = append(faults, fmt.Sprintf(format, s.Key, v.Interface(), must))
		}
	}
	return faults
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
	webAddress   = verdict("must be an address such as https://10.0.0.1:443", isWebAddress)
	label        = verdict("must be the name of a service", func(v string) bool { return isDomain(v) && !strings.Contains(v, ".") })
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

// TakeUp returns c with those settings of next that a running service can take
// up. The others are tied to open resources; they need a restart.
func (c Config) TakeUp(next Config) Config {
	to, from := c.fields(), next.fields()
	for _, s := range Settings() {
		if s.Live {
			to[s.Key].Set(from[s.Key])
		}
	}
	return c
}

// Differences returns the settings in which next differs from c, in the order of
// the documentation.
func (c Config) Differences(next Config) (names []string) {
	now, then := c.fields(), next.fields()
	for _, s := range Settings() {
		if !reflect.DeepEqual(now[s.Key].Interface(), then[s.Key].Interface()) {
			names = append(names, s.Key)
		}
	}
	return names
}

// NeedRestart returns the settings in which next differs from c and that a
// running service cannot take up, in the order of the documentation.
func (c Config) NeedRestart(next Config) (names []string) {
	live := map[string]bool{}
	for _, s := range Settings() {
		live[s.Key] = s.Live
	}
	return slices.DeleteFunc(c.Differences(next), func(key string) bool { return live[key] })
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

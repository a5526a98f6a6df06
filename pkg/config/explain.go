package config

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/pattern"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// Effective is a setting as Load returns it.
type Effective struct {
	Key    string `json:"key"`
	Value  any    `json:"value"`
	Source string `json:"source"` // "default", the path of the file, "NAME in the environment", or "a flag"
}

// Explain returns settings with their values and the sources that have them: the named
// ones, or without names all of them, sorted by key. The errors are those of Load, and
// CodeInvalid for a name that is no setting.
func Explain(src Sources, names ...string) ([]Effective, error) {
	c, err := Load(src)
	if err != nil {
		return nil, err
	}
	env := environment(src.Environ)
	def := defaults(env, os.Geteuid() == 0)
	fromEnv, _ := environmentSettings(env, def)
	flags := layer{values: src.Flags, source: func(string) string { return "in a flag" }}
	file, err := readFile(src.File, stateOf(def, fromEnv, flags))
	if err != nil {
		return nil, err
	}
	var all []Effective
	for key, field := range c.fields() {
		e := Effective{Key: key, Value: field.Interface(), Source: "default"}
		if text, ok := e.Value.(fmt.Stringer); ok {
			e.Value = text.String()
		}
		for _, l := range []layer{file, fromEnv, flags} {
			if _, ok := l.values[key]; ok {
				e.Source = strings.TrimPrefix(l.source(key), "in ")
			}
		}
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b Effective) int { return strings.Compare(a.Key, b.Key) })
	if len(names) == 0 {
		return all, nil
	}
	var named []Effective
	for _, name := range names {
		i, ok := slices.BinarySearchFunc(all, name, func(e Effective, name string) int { return strings.Compare(e.Key, name) })
		if !ok {
			return nil, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: fmt.Sprintf("there is no setting %q", name), Hint: nearestHint(name, all)}
		}
		named = append(named, all[i])
	}
	return named, nil
}

// nearestHint returns the setting that was probably meant by name.
func nearestHint(name string, all []Effective) string {
	var known []string
	for _, e := range all {
		known = append(known, e.Key)
	}
	if meant := term.Nearest(name, known); meant != "" {
		return "did you mean: " + meant
	}
	return "known settings: " + strings.Join(known, ", ")
}

var unknownSetting = pattern.New(`unknown setting "?([A-Za-z0-9_]+)"?`)

// unknownHint returns the settings that were probably meant by the unknown ones in
// text, or all of them.
func unknownHint(text string, known []string) string {
	meant := map[string]bool{}
	for _, m := range unknownSetting().FindAllStringSubmatch(text, -1) {
		name := m[1]
		rest, variable := strings.CutPrefix(name, prefix)
		if near := term.Nearest(strings.ToLower(rest), known); near != "" && variable {
			meant[near+" ("+prefix+strings.ToUpper(near)+")"] = true
		} else if near != "" {
			meant[near] = true
		}
	}
	if len(meant) > 0 {
		return "did you mean: " + strings.Join(slices.Sorted(maps.Keys(meant)), ", ")
	}
	return "known settings: " + strings.Join(known, ", ")
}

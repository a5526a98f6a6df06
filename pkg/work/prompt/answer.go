package prompt

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"unicode"
)

var (
	errNoJSON = errors.New("there is no JSON in the model's answer")
	errNoText = errors.New("the model's answer is empty")
)

// shape describes a value in the model's answer.
type shape struct {
	typ       Type
	required  bool
	maxBytes  int      // of a string
	oneOf     []string // allowed strings
	fileNames []string // allowed patterns of a string
	skills    bool     // a string must be the name of a skill in the global volume

	maxItems int               // of a list
	drop     bool              // omit invalid items, and those over the bound
	items    *shape            // of a list
	contains map[string]string // members that at least one item must have
	unique   string            // a member that must differ in all items

	members []memberShape // of an object; others are omitted
}

type memberShape struct {
	name string
	shape
}

func (s shape) member(name string) (shape, bool) {
	for _, m := range s.members {
		if m.name == name {
			return m.shape, true
		}
	}
	return shape{}, false
}

// misfit returns an error about the value at a path. It does not quote the value:
// errors are logged, and the log must not contain texts of players or models.
func misfit(at, format string, args ...any) error {
	return fmt.Errorf("the model's answer: %s %s", at, fmt.Sprintf(format, args...))
}

// check returns the part of v for the client. skill reports whether the global
// volume has a skill.
func (s shape) check(at string, v any, skill func(string) bool) (any, error) {
	if !s.typ.fits(v) {
		return nil, misfit(at, "must be %s", s.typ.name())
	}
	switch v := v.(type) {
	case string:
		return v, s.checkString(at, v, skill)
	case []any:
		if s.typ == TypeList {
			return s.checkList(at, v, skill)
		}
	case map[string]any:
		if s.typ == TypeObject {
			return s.checkObject(at, v, skill)
		}
	}
	return v, nil
}

func (s shape) checkString(at, v string, skill func(string) bool) error {
	if s.typ != TypeString {
		return nil
	}
	switch {
	case len(v) > s.maxBytes:
		return misfit(at, "has more than %d bytes", s.maxBytes)
	case s.required && strings.TrimSpace(v) == "":
		return misfit(at, "is empty")
	case len(s.oneOf) > 0 && !slices.Contains(s.oneOf, v):
		return misfit(at, "is not one of the allowed strings")
	case s.skills && !skill(v):
		return misfit(at, "is not a skill in the global volume")
	case len(s.fileNames) > 0 && !allowedFile(v, s.fileNames):
		return misfit(at, "is not an allowed file name")
	}
	return nil
}

func (s shape) checkList(at string, list []any, skill func(string) bool) (any, error) {
	out, seen, contained := []any{}, map[string]bool{}, len(s.contains) == 0
	for i, v := range list {
		if len(out) == s.maxItems {
			if s.drop {
				break
			}
			return nil, misfit(at, "has more than %d items", s.maxItems)
		}
		item, err := s.items.check(fmt.Sprintf("%s[%d]", at, i), v, skill)
		if err == nil && s.unique != "" {
			key, _ := item.(map[string]any)[s.unique].(string)
			if seen[key] {
				err = misfit(at, "has two items with the same %s", s.unique)
			}
			seen[key] = true
		}
		if err != nil {
			if s.drop {
				continue
			}
			return nil, err
		}
		contained = contained || has(item, s.contains)
		out = append(out, item)
	}
	if !contained {
		return nil, misfit(at, "has no item with %v", s.contains)
	}
	return out, nil
}

// has reports whether an object has the members.
func has(item any, members map[string]string) bool {
	object, _ := item.(map[string]any)
	for name, value := range members {
		if object[name] != value {
			return false
		}
	}
	return true
}

func (s shape) checkObject(at string, object map[string]any, skill func(string) bool) (any, error) {
	out := make(map[string]any, len(s.members))
	for _, m := range s.members {
		v, ok := object[m.name]
		path := join(at, m.name)
		switch {
		case (!ok || v == nil) && m.required:
			return nil, misfit(path, "is missing")
		case !ok || v == nil:
			out[m.name] = m.typ.zero()
			continue
		}
		checked, err := m.check(path, v, skill)
		if err != nil {
			return nil, err
		}
		out[m.name] = checked
	}
	return out, nil
}

// isFilePattern reports whether pattern can match a file inside a project.
func isFilePattern(pattern string) bool {
	_, err := path.Match(pattern, "")
	return err == nil && fs.ValidPath(pattern) && pattern != "."
}

// allowedFile reports whether name is a plain relative path that matches one of the
// patterns. A pattern never matches a name that starts with a dot.
func allowedFile(name string, patterns []string) bool {
	if !fs.ValidPath(name) || name == "." || strings.ContainsFunc(name, unicode.IsControl) || strings.Contains(name, `\`) {
		return false
	}
	for element := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(element, ".") {
			return false
		}
	}
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(p, name)
		return ok && err == nil
	})
}

// read returns the client's answer for the model's text.
func (a Answer) read(said string, r request, first []string, skill func(string) bool) (map[string]any, error) {
	said = strings.TrimSpace(said)
	switch {
	case said == "":
		return nil, errNoText
	case len(said) > a.MaxBytes:
		return nil, fmt.Errorf("the model's answer has more than %d bytes", a.MaxBytes)
	}
	if raw, _ := r.values[a.raw].(bool); raw {
		return map[string]any{"result": said}, nil
	}
	body, err := a.body(said, first, skill)
	if err != nil {
		return nil, err
	}
	maps.Copy(body, a.add)
	return body, nil
}

func (a Answer) body(said string, first []string, skill func(string) bool) (map[string]any, error) {
	check := func(v any) (any, error) { return a.value.check("", v, skill) }
	switch a.Kind {
	case KindWords:
		word, err := a.word(said)
		return map[string]any{a.Key: word}, err
	case KindArray:
		list, err := find(said, '[', check)
		if err != nil {
			return nil, err
		}
		return map[string]any{a.Key: a.withFirst(list.([]any), first, skill)}, nil
	case KindObject:
		v, err := find(said, '{', check)
		if errors.Is(err, errNoJSON) && a.plain != "" {
			v, err = check(map[string]any{a.plain: said})
		}
		if err != nil {
			return nil, err
		}
		return v.(map[string]any), nil
	}
	return map[string]any{a.Key: said}, nil
}

// withFirst returns the allowed items of first, followed by the model's, without
// duplicates.
func (a Answer) withFirst(list []any, first []string, skill func(string) bool) []any {
	out := []any{}
	add := func(v any) {
		if len(out) < a.value.maxItems && !slices.ContainsFunc(out, func(o any) bool { return equal(o, v) }) {
			out = append(out, v)
		}
	}
	for _, s := range first {
		if v, err := a.value.items.check("", s, skill); err == nil {
			add(v)
		}
	}
	for _, v := range list {
		add(v)
	}
	return out
}

// equal reports whether both values are the same string.
func equal(a, b any) bool {
	s, ok := a.(string)
	t, same := b.(string)
	return ok && same && s == t
}

// word returns the one of the words that occurs in the model's text. It is an error
// if several occur.
func (a Answer) word(said string) (string, error) {
	said = strings.ToLower(said)
	found := ""
	for _, w := range a.Words {
		if !hasWord(said, strings.ToLower(w)) {
			continue
		}
		if found != "" {
			return "", errors.New("the model's answer has more than one of the words")
		}
		found = w
	}
	if found == "" {
		return "", errors.New("the model's answer has none of the words")
	}
	return found, nil
}

// hasWord reports whether word occurs in text. A word of ASCII letters or digits
// must not be part of a longer one; other scripts have no spaces between words.
func hasWord(text, word string) bool {
	for from := 0; ; {
		at := strings.Index(text[from:], word)
		if at < 0 || word == "" {
			return false
		}
		at += from
		end := at + len(word)
		before := at > 0 && isWordByte(word[0]) && isWordByte(text[at-1])
		after := end < len(text) && isWordByte(word[len(word)-1]) && isWordByte(text[end])
		if !before && !after {
			return true
		}
		from = end
	}
}

func isWordByte(b byte) bool {
	return b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b == '_'
}

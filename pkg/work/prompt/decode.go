package prompt

import (
	"maps"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Parse reads the file of an endpoint. The error has dreamcore.CodeInvalid and
// ReasonFile, and lists all errors of the file with field and line.
func Parse(name string, file []byte) (*Endpoint, error) {
	d := &decoder{}
	e := &Endpoint{Name: name, Text: file}
	if !isName(name) {
		d.fault(nil, "", "the name %q must be lower-case words with single underscores, at most %d bytes", name, maxName)
	}
	if root, err := document(file); err != nil {
		d.fault(nil, "", "%v", err)
	} else {
		d.endpoint(e, node{root, ""})
	}
	if len(d.faults) > 0 {
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Reason: ReasonFile, Message: strings.Join(d.faults, "; "),
			Hint: "compare it with the file of a shipped endpoint, such as detect_intent",
		}
	}
	return e, nil
}

// endpoint reads the complete file.
func (d *decoder) endpoint(e *Endpoint, n node) {
	m := d.members(n, "description", "fields", "model", "max_tokens", "timeout", "system", "prompt", "answer", "failure", "invalid")
	d.require(node{path: n.path}, m, "prompt", "model", "answer", "failure")
	e.MaxTokens, e.Timeout = defaultMaxTokens, defaultTimeout
	optional(m, "description", &e.Description, d.text)
	optional(m, "fields", &e.Fields, d.fields)
	if v, ok := m["model"]; ok {
		if e.Model = d.text(v); e.Model == "" || strings.ContainsAny(e.Model, " \t\r\n") {
			d.wrong(v, "must be the name of a model or an alias of prompt_models")
		}
	}
	optional(m, "max_tokens", &e.MaxTokens, d.whole(1, maxTokensLimit))
	optional(m, "timeout", &e.Timeout, d.duration(time.Second, maxTimeout))
	scope := scopeOf(e.Fields)
	if v, ok := m["system"]; ok {
		e.system = d.template(v, scope)
	}
	if v, ok := m["prompt"]; ok {
		if e.prompt = d.template(v, scope); e.prompt != nil && strings.TrimSpace(v.Value) == "" {
			d.wrong(v, "must not be empty")
		}
	}
	if v, ok := m["answer"]; ok {
		e.Answer = d.answer(v, e.Fields, scope)
	}
	if v, ok := m["failure"]; ok {
		e.failure = d.failure(v, e, scope)
		e.invalid = e.failure
	}
	if v, ok := m["invalid"]; ok {
		e.invalid = d.failure(v, e, scope)
	}
}

func (d *decoder) template(n node, scope map[string]bool) *template {
	t, err := parseTemplate(n.path, d.text(n), scope)
	if err != nil {
		d.wrong(n, "%v", err)
		return nil
	}
	return t
}

func (d *decoder) fields(n node) (all []Field) {
	for _, p := range d.pairs(n) {
		if !fieldForm().MatchString(p.key) {
			d.wrong(p.value, "must be a name of letters, digits and underscores")
			continue
		}
		all = append(all, d.field(p.key, p.value))
	}
	return all
}

func (d *decoder) field(name string, n node) Field {
	f := Field{Name: name, Type: TypeString, MaxBytes: defaultFieldBytes, MaxItems: defaultFieldItems}
	m := d.members(n, "type", "required", "default", "max_bytes", "max_items")
	if v, ok := m["type"]; ok {
		f.Type = Type(d.text(v))
		if !slices.Contains(types, f.Type) {
			d.wrong(v, "%q is not a type: use %s", f.Type, joinTypes())
		}
	}
	optional(m, "required", &f.Required, d.truth)
	optional(m, "max_bytes", &f.MaxBytes, d.whole(1, maxFieldBytes))
	if v, ok := m["max_items"]; ok {
		f.MaxItems = d.whole(1, maxListItems)(v)
		if f.Type != TypeList {
			d.wrong(v, "is for lists")
		}
	}
	v, ok := m["default"]
	if !ok {
		f.Default = f.Type.zero()
		return f
	}
	f.Default = d.value(v)
	if f.Required {
		d.wrong(v, "is never used: the field is required")
	}
	if slices.Contains(types, f.Type) && !f.Type.fits(f.Default) {
		d.wrong(v, "must be %s, which is the field's type", f.Type.name())
	}
	return f
}

func (d *decoder) answer(n node, fields []Field, scope map[string]bool) (a Answer) {
	m := d.members(n, "kind", "key", "words", "max_bytes", "members", "items", "max_items", "drop", "first", "raw", "plain", "add")
	a.MaxBytes = defaultAnswerBytes
	if v, ok := m["kind"]; ok {
		a.Kind = Kind(d.text(v))
	}
	own := map[Kind][]string{
		KindWords: {"key", "words"}, KindText: {"key"}, KindObject: {"members", "raw", "plain"},
		KindArray: {"key", "items", "max_items", "drop", "first", "raw"},
	}
	if _, ok := own[a.Kind]; !ok {
		d.fault(n.Node, join(n.path, "kind"), "must be words, object, array or text")
		return a
	}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if !slices.Contains(own[a.Kind], key) && !slices.Contains([]string{"kind", "max_bytes", "add"}, key) {
			d.wrong(m[key], "is not for answers of the kind %s", a.Kind)
		}
	}
	optional(m, "max_bytes", &a.MaxBytes, d.whole(1, maxAnswerBytes))
	optional(m, "key", &a.Key, d.text)
	if a.Key == "" && a.Kind != KindObject {
		d.fault(n.Node, join(n.path, "key"), "is missing: name the member of the client's answer")
	}
	optional(m, "words", &a.Words, d.texts)
	if len(a.Words) == 0 && a.Kind == KindWords {
		d.fault(n.Node, join(n.path, "words"), "is missing: name the words that the model may answer")
	}
	d.answerValue(&a, n, m)
	d.answerExtras(&a, m, fields, scope)
	return a
}

// answerValue reads the shape of an object or an array answer.
func (d *decoder) answerValue(a *Answer, n node, m map[string]node) {
	switch a.Kind {
	case KindObject:
		a.value = shape{typ: TypeObject}
		v, ok := m["members"]
		if !ok {
			d.fault(n.Node, join(n.path, "members"), "is missing: name the members of the object")
			return
		}
		a.value.members = d.shapes(v, 0)
	case KindArray:
		a.value = shape{typ: TypeList, maxItems: defaultFieldItems}
		optional(m, "max_items", &a.value.maxItems, d.whole(1, maxListItems))
		optional(m, "drop", &a.value.drop, d.truth)
		v, ok := m["items"]
		if !ok {
			d.fault(n.Node, join(n.path, "items"), "is missing: describe an item")
			return
		}
		items := d.shape(v, 0)
		a.value.items = &items
	}
}

func (d *decoder) answerExtras(a *Answer, m map[string]node, fields []Field, scope map[string]bool) {
	if v, ok := m["first"]; ok {
		for _, item := range d.items(v) {
			a.first = append(a.first, d.template(item, scope))
		}
	}
	if v, ok := m["raw"]; ok {
		a.raw = d.text(v)
		if !slices.ContainsFunc(fields, func(f Field) bool { return f.Name == a.raw && f.Type == TypeBool }) {
			d.wrong(v, "%q is not a field of the type bool", a.raw)
		}
	}
	if v, ok := m["plain"]; ok {
		a.plain = d.text(v)
		if s, ok := a.value.member(a.plain); !ok || s.typ != TypeString {
			d.wrong(v, "%q is not a member of the type string", a.plain)
		}
	}
	if v, ok := m["add"]; ok {
		if a.add, ok = d.value(v).(map[string]any); !ok {
			d.wrong(v, "must be a mapping")
		}
	}
}

// maxShapeDepth bounds the depth of an answer.
const maxShapeDepth = 5

func (d *decoder) shapes(n node, depth int) (all []memberShape) {
	for _, p := range d.pairs(n) {
		all = append(all, memberShape{p.key, d.shape(p.value, depth+1)})
	}
	return all
}

func (d *decoder) shape(n node, depth int) (s shape) {
	s = shape{typ: TypeString, maxBytes: defaultFieldBytes, maxItems: defaultFieldItems}
	if depth > maxShapeDepth {
		d.wrong(n, "is more than %d levels deep", maxShapeDepth)
		return s
	}
	m := d.members(n, "type", "required", "max_bytes", "max_items", "one_of", "file_names", "skills", "drop", "items", "members", "contains", "unique")
	if v, ok := m["type"]; ok {
		s.typ = Type(d.text(v))
		if !slices.Contains(types, s.typ) {
			d.wrong(v, "%q is not a type: use %s", s.typ, joinTypes())
		}
	}
	optional(m, "required", &s.required, d.truth)
	optional(m, "max_bytes", &s.maxBytes, d.whole(1, maxAnswerBytes))
	optional(m, "max_items", &s.maxItems, d.whole(1, maxListItems))
	optional(m, "drop", &s.drop, d.truth)
	d.allowLists(&s, m)
	if v, ok := m["items"]; ok {
		items := d.shape(v, depth+1)
		s.items = &items
	}
	if v, ok := m["members"]; ok {
		s.members = d.shapes(v, depth)
	}
	d.checkShape(n, &s, m)
	return s
}

func (d *decoder) allowLists(s *shape, m map[string]node) {
	optional(m, "one_of", &s.oneOf, d.texts)
	optional(m, "skills", &s.skills, d.truth)
	if v, ok := m["file_names"]; ok {
		s.fileNames = d.texts(v)
		for _, pattern := range s.fileNames {
			if !isFilePattern(pattern) {
				d.wrong(v, "%q is not the pattern of a file inside the project, such as *.js", pattern)
			}
		}
	}
	optional(m, "unique", &s.unique, d.text)
	if v, ok := m["contains"]; ok {
		s.contains = map[string]string{}
		for _, p := range d.pairs(v) {
			s.contains[p.key] = d.text(p.value)
		}
	}
}

// checkShape reports keys that have no effect for the type.
func (d *decoder) checkShape(n node, s *shape, m map[string]node) {
	only := map[string]Type{
		"max_bytes": TypeString, "one_of": TypeString, "file_names": TypeString, "skills": TypeString,
		"max_items": TypeList, "drop": TypeList, "items": TypeList, "contains": TypeList, "unique": TypeList,
		"members": TypeObject,
	}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if t, ok := only[key]; ok && t != s.typ {
			d.wrong(m[key], "is for the type %s, and this is %s", t, s.typ.name())
		}
	}
	if s.typ == TypeList && s.items == nil {
		d.fault(n.Node, join(n.path, "items"), "is missing: describe an item")
	}
	if s.typ == TypeObject && len(s.members) == 0 {
		d.fault(n.Node, join(n.path, "members"), "is missing: name the members of the object")
	}
	if (s.unique != "" || len(s.contains) > 0) && s.items != nil {
		for _, key := range append(slices.Sorted(maps.Keys(s.contains)), s.unique) {
			if member, ok := s.items.member(key); key != "" && (!ok || member.typ != TypeString) {
				d.wrong(n, "contains and unique: %q is not a member of the items with the type string", key)
			}
		}
	}
}

func (d *decoder) failure(n node, e *Endpoint, scope map[string]bool) (f failure) {
	m := d.members(n, "status", "guess", "body")
	if v, ok := m["status"]; ok {
		f.status = d.whole(200, 599)(v)
		if f.status != 200 && f.status < 400 {
			d.wrong(v, "must be 200, or between 400 and 599")
		}
	} else {
		d.fault(n.Node, join(n.path, "status"), "is missing: 200, or 400 to 599")
	}
	guess, guesses := m["guess"]
	body, fixed := m["body"]
	switch {
	case guesses == fixed:
		d.wrong(n, "needs either guess or body")
	case fixed:
		if body.Kind != yaml.MappingNode {
			d.wrong(body, "must be a mapping")
			return f
		}
		f.body = d.templates(body, scope)
	default:
		f.guess = d.guess(guess, e)
	}
	return f
}

// templates returns a value in which every string is a template.
func (d *decoder) templates(n node, scope map[string]bool) any {
	switch n.Kind {
	case yaml.MappingNode:
		m := map[string]any{}
		for _, p := range d.pairs(n) {
			m[p.key] = d.templates(p.value, scope)
		}
		return m
	case yaml.SequenceNode:
		list := []any{}
		for _, item := range d.items(n) {
			list = append(list, d.templates(item, scope))
		}
		return list
	}
	if n.Tag == "!!str" {
		return d.template(n, scope)
	}
	return d.value(n)
}

func (d *decoder) guess(n node, e *Endpoint) *guess {
	g := &guess{}
	if e.Answer.Kind != KindWords {
		d.wrong(n, "is for answers of the kind words: use body")
	}
	m := d.members(n, "field", "rules", "otherwise")
	word := func(v node) string {
		w := d.text(v)
		if !slices.Contains(e.Answer.Words, w) {
			d.wrong(v, "%q is not one of the answer's words", w)
		}
		return w
	}
	d.require(n, m, "field", "otherwise")
	if v, ok := m["field"]; ok {
		g.field = d.text(v)
		if !slices.ContainsFunc(e.Fields, func(f Field) bool { return f.Name == g.field && f.Type == TypeString }) {
			d.wrong(v, "%q is not a field of the type string", g.field)
		}
	}
	if v, ok := m["otherwise"]; ok {
		g.otherwise = word(v)
	}
	if v, ok := m["rules"]; ok {
		for _, item := range d.items(v) {
			g.rules = append(g.rules, d.rule(item, word))
		}
	}
	return g
}

func (d *decoder) rule(n node, word func(node) string) (r rule) {
	m := d.members(n, "answer", "starts", "contains", "ends")
	if v, ok := m["answer"]; ok {
		r.answer = word(v)
	} else {
		d.fault(n.Node, join(n.path, "answer"), "is missing")
	}
	for key, into := range map[string]*[]string{"starts": &r.starts, "contains": &r.contains, "ends": &r.ends} {
		if v, ok := m[key]; ok {
			for _, s := range d.texts(v) {
				*into = append(*into, strings.ToLower(s))
			}
		}
	}
	if len(r.starts)+len(r.contains)+len(r.ends) == 0 {
		d.wrong(n, "needs starts, contains or ends")
	}
	return r
}

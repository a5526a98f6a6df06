package prompt

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	text "text/template"
	"text/template/parse"
	"time"
	"unicode/utf8"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Bounds of one execution of a template.
const (
	maxOutput    = 1 << 20
	maxText      = 16 * maxOutput // text created by functions, which variables may hold
	maxSteps     = 100_000        // iterations of all loops together
	templateTime = 2 * time.Second
)

// template is a checked template of text/template. Its data are maps, lists,
// strings, numbers and booleans, so there is no method that it could call.
type template struct{ tree *text.Template }

// view is the data for templates in addition to the fields of the request.
type view struct {
	lang     dreamcore.Language
	sentence func() string // the message of the failure for the player; nil before a failure
	skills   func() []Skill
	files    func() ([]any, error)
}

// tick is a function that is called in each iteration of a loop. It is added
// while parsing; files must not use it.
const tick = "dreamcore_tick"

// forbidden are functions of text/template that take a format or a function.
var forbidden = map[string]string{
	"printf": "use print", "call": "there is nothing to call", tick: "it is internal",
}

// scopeOf returns the names that a template may use.
func scopeOf(fields []Field) map[string]bool {
	scope := map[string]bool{}
	for _, f := range fields {
		scope[f.Name] = true
	}
	return scope
}

// execution is one execution of a template.
type execution struct {
	*view
	until       time.Time
	steps, text int // so far
}

// step is the function tick.
func (x *execution) step() (string, error) {
	if x.steps++; x.steps > maxSteps || time.Now().After(x.until) {
		return "", errSteps
	}
	return "", nil
}

// grow counts n bytes of created text.
func (x *execution) grow(n int) error {
	if x.text += n; x.text > maxText {
		return errOutput
	}
	return nil
}

// bounded wraps a function of text/template that concatenates its arguments: a
// variable could double its size in every iteration of a loop.
func (x *execution) bounded(f func(args ...any) string) func(args ...any) (string, error) {
	return func(args ...any) (string, error) {
		for _, arg := range args {
			s, ok := arg.(string)
			if !ok {
				s = fmt.Sprint(arg)
			}
			if err := x.grow(len(s)); err != nil {
				return "", err
			}
		}
		return f(args...), nil
	}
}

// asText is the function text: see asText.
func (x *execution) asText(v any) (string, error) {
	s, err := asText(v)
	return s, errors.Join(err, x.grow(len(s)))
}

// functions returns the functions of templates for one execution.
func functions(x *execution) text.FuncMap {
	v := x.view
	return text.FuncMap{
		tick:         x.step,
		"print":      x.bounded(fmt.Sprint),
		"println":    x.bounded(fmt.Sprintln),
		"html":       x.bounded(text.HTMLEscaper),
		"js":         x.bounded(text.JSEscaper),
		"urlquery":   x.bounded(text.URLQueryEscaper),
		"firstBytes": firstBytes,
		"lastItems":  lastItems,
		"text":       x.asText,
		"trim":       strings.TrimSpace,
		"lang": func(english, japanese string) string {
			if v.lang == dreamcore.Japanese {
				return japanese
			}
			return english
		},
		"sentence": func() (string, error) {
			if v.sentence == nil {
				return "", errors.New("sentence is for failure and invalid")
			}
			return v.sentence(), nil
		},
		"skills": func() ([]any, error) {
			if v.skills == nil {
				return nil, errors.New("there are no skills here")
			}
			return skillItems(v.skills()), nil
		},
		"files": func() ([]any, error) {
			if v.files == nil {
				return nil, errors.New("there are no files here")
			}
			return v.files()
		},
	}
}

func parseTemplate(name, source string, scope map[string]bool) (*template, error) {
	none := functions(&execution{view: &view{}}) // only their names matter: nothing is called yet
	t, err := text.New(name).Option("missingkey=error").Funcs(none).Parse(source)
	if err != nil {
		return nil, fmt.Errorf("is not a template: %w", err)
	}
	if len(t.Templates()) > 1 {
		return nil, errors.New("must not define other templates")
	}
	if t.Tree == nil || t.Root == nil {
		return &template{t}, nil
	}
	counter := text.Must(text.New(tick).Funcs(none).Parse("{{" + tick + "}}"))
	c := &checker{scope: scope, tick: counter.Root.Nodes[0]}
	c.list(t.Root, true)
	return &template{t}, errors.Join(c.faults...)
}

// checker walks through a template, finds what files must not use, and makes every
// loop count its iterations.
type checker struct {
	scope  map[string]bool
	tick   parse.Node
	faults []error
}

// list checks the nodes of a list; top is set while the dot is the request.
func (c *checker) list(l *parse.ListNode, top bool) {
	if l == nil {
		return
	}
	for _, n := range l.Nodes {
		c.node(n, top)
	}
}

func (c *checker) node(n parse.Node, top bool) {
	switch n := n.(type) {
	case *parse.ActionNode:
		c.pipe(n.Pipe, top)
	case *parse.IfNode:
		c.branch(n.BranchNode, top, top)
	case *parse.WithNode:
		c.branch(n.BranchNode, top, false)
	case *parse.RangeNode:
		c.branch(n.BranchNode, top, false)
		n.List.Nodes = append([]parse.Node{c.tick.Copy()}, n.List.Nodes...)
	case *parse.TemplateNode:
		c.fault("{{template}} is not available")
	}
}

// branch checks a node with a list; inside is whether the dot is the request in it.
func (c *checker) branch(n parse.BranchNode, top, inside bool) {
	c.pipe(n.Pipe, top)
	c.list(n.List, inside)
	c.list(n.ElseList, top)
}

func (c *checker) pipe(p *parse.PipeNode, top bool) {
	if p == nil {
		return
	}
	for _, cmd := range p.Cmds {
		for _, arg := range cmd.Args {
			c.argument(arg, top)
		}
	}
}

func (c *checker) argument(n parse.Node, top bool) {
	switch n := n.(type) {
	case *parse.FieldNode:
		if top && !c.scope[n.Ident[0]] {
			c.fault("%q is not a field of the request", n.Ident[0])
		}
	case *parse.VariableNode:
		if n.Ident[0] == "$" && len(n.Ident) > 1 && !c.scope[n.Ident[1]] {
			c.fault("%q is not a field of the request", n.Ident[1])
		}
	case *parse.ChainNode:
		c.argument(n.Node, top)
	case *parse.IdentifierNode:
		if instead, ok := forbidden[n.Ident]; ok {
			c.fault("the function %s is not available: %s", n.Ident, instead)
		}
	case *parse.PipeNode:
		c.pipe(n, top)
	}
}

func (c *checker) fault(format string, args ...any) {
	c.faults = append(c.faults, fmt.Errorf(format, args...))
}

// Errors of templates that exceed a bound.
var (
	errOutput = errors.New("the template creates too much text")
	errSteps  = errors.New("the template runs for too long")
)

// run executes the template for a request. The result of a nil template is "".
func (t *template) run(values map[string]any, v *view) (string, error) {
	if t == nil {
		return "", nil
	}
	clone, err := t.tree.Clone()
	if err != nil {
		return "", err
	}
	var out boundedBuffer
	if err := clone.Funcs(functions(&execution{view: v, until: time.Now().Add(templateTime)})).Execute(&out, values); err != nil {
		return "", err
	}
	return strings.TrimSpace(out.String()), nil
}

// boundedBuffer is a buffer of at most maxOutput bytes.
type boundedBuffer struct{ bytes.Buffer }

func (b *boundedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxOutput {
		return 0, errOutput
	}
	return b.Buffer.Write(p)
}

// firstBytes returns the first n bytes of a value's text, without an incomplete
// character at the end.
func firstBytes(n int, v any) (string, error) {
	s, err := asText(v)
	if err != nil || len(s) <= n {
		return s, err
	}
	for n = max(n, 0); n > 0 && !utf8.RuneStart(s[n]); n-- {
	}
	return s[:n], nil
}

// lastItems returns the last n items of a list.
func lastItems(n int, list []any) []any { return list[max(len(list)-max(n, 0), 0):] }

// asText returns a string unchanged, "" for null, and JSON for other values.
func asText(v any) (string, error) {
	switch v := v.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	}
	raw, err := encode(v)
	return string(raw), err
}

// encode is like json.Marshal, without escapes for HTML.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return bytes.TrimRight(b.Bytes(), "\n"), err
}

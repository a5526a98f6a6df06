// Package prompt implements prompt endpoints, which are data: a YAML file defines
// the fields of a request, the template of the model's prompt, the model, the form
// of its answer, and the client's answer if the model fails. Eight are embedded;
// files in the global volume replace them or add others.
//
//	set, err := prompt.Open(prompt.Source{Open: openGlobalVolume, Reserved: names})
//	service := prompt.New(prompt.Config{Set: set, Model: gateway, …})
//	result, err := service.Answer(ctx, "detect_intent", body, dreamcore.English)
//
// The files of the package: endpoint.go, decode.go and yaml.go define the format,
// template.go and skill.go the templates and their data. field.go reads requests,
// answer.go and find.go read the model's answer, failure.go replaces it. set.go
// keeps the endpoints up to date, and service.go makes the call.
//
// Requests and the model's answers are hostile: both are checked against the file
// and bounded before they are used.
package prompt

import (
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/system/pattern"
)

// Endpoint is one parsed file. It is not changed after Parse.
type Endpoint struct {
	Name        string
	Description string
	Fields      []Field
	Model       string // a name of the API, or an alias
	MaxTokens   int
	Timeout     time.Duration
	Answer      Answer

	Shipped bool   // embedded, not a file in the global volume
	Text    []byte // content of the file

	system, prompt *template
	failure        failure // if the model did not answer
	invalid        failure // if its answer does not match the file
}

// Kind is the kind of the model's answer.
type Kind string

// The kinds of answers.
const (
	KindWords  Kind = "words"  // one of several words
	KindObject Kind = "object" // a JSON object
	KindArray  Kind = "array"  // a JSON array
	KindText   Kind = "text"   // any text, unchanged
)

// Answer describes the model's answer and the client's.
type Answer struct {
	Kind     Kind
	Key      string   // the member of the client's object for the answer; unused for objects
	Words    []string // of KindWords
	MaxBytes int      // of the model's text

	value shape          // of KindObject and KindArray
	raw   string         // a bool field: if it is true, the client gets {"result": text}
	plain string         // of KindObject: the member for a text without JSON
	first []*template    // of KindArray: items before the model's
	add   map[string]any // members that are added to every successful answer
}

// Bounds of the values in a file.
const (
	MaxFileBytes   = 64 << 10
	maxTokensLimit = 64_000
	maxTimeout     = 10 * time.Minute
	maxAnswerBytes = 2 << 20
	maxFieldBytes  = 4 << 20
	maxListItems   = 10_000
)

// Defaults of a file.
const (
	defaultMaxTokens   = 1024
	defaultTimeout     = 30 * time.Second
	defaultAnswerBytes = 256 << 10
	defaultFieldBytes  = 64 << 10
	defaultFieldItems  = 200
)

// nameForm matches an endpoint's name, from which all forms of its address are
// derived.
var nameForm = pattern.New(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)

// maxName leaves space for a prefix of the name in a host label.
const maxName = 40

// isName reports whether name is valid for an endpoint.
func isName(name string) bool { return len(name) <= maxName && nameForm().MatchString(name) }

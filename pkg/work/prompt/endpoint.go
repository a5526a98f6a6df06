// Package prompt holds prompt endpoints, which are data: a YAML file says which
// fields a request has, the template that makes the model's prompt of them,
// which model is asked, what its answer must look like, and what the client is
// told when the model fails. Eight are embedded; files in the global volume
// replace them or add others.
//
//	set, err := prompt.Open(prompt.Source{Open: openGlobalVolume, Reserved: names})
//	service := prompt.New(prompt.Config{Set: set, Model: gateway, …})
//	result, err := service.Answer(ctx, "detect_intent", body, dreamcore.English)
//
// The files of the package: endpoint.go, decode.go and yaml.go are the format,
// template.go and skill.go what templates can see, field.go reads requests, answer.go and
// find.go read what the model said, failure.go stands in for it, set.go keeps
// the endpoints up to date, and service.go makes the call.
//
// Requests and the model's answers are hostile: both are checked against the
// file and bounded before anything is done with them.
package prompt

import (
	"regexp"
	"time"
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

	Shipped bool   // the embedded one, not a file of the global volume
	Text    []byte // the file

	system, prompt *template
	failure        failure // the model did not answer
	invalid        failure // its answer is not what the file asks for
}

// Kind is the kind of the model's answer.
type Kind string

// The kinds of answers.
const (
	KindWords  Kind = "words"  // one of some words
	KindObject Kind = "object" // a JSON object
	KindArray  Kind = "array"  // a JSON array
	KindText   Kind = "text"   // text as it is
)

// Answer describes what the model must answer and what the client gets of it.
type Answer struct {
	Kind     Kind
	Key      string   // the member of the client's object that has the answer; unused for objects
	Words    []string // of KindWords
	MaxBytes int      // of the model's text

	value shape          // of KindObject and KindArray
	raw   string         // a bool field: where it is true, the client gets {"result": text}
	plain string         // of KindObject: a model that answers without JSON has answered this member
	first []*template    // of KindArray: items that come before the model's
	add   map[string]any // members that the client gets with every good answer
}

// Bounds of what a file may ask for.
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

// nameForm is that of an endpoint's name: every address form follows from it.
var nameForm = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)

// maxName leaves room for a base before the name in a label of a host name.
const maxName = 40

// isName reports whether name can be that of an endpoint.
func isName(name string) bool { return len(name) <= maxName && nameForm.MatchString(name) }

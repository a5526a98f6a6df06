package prompt

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/pattern"
)

// Type is the type of a request's field, or of a part of an answer.
type Type string

// The types, as JSON has them.
const (
	TypeString Type = "string"
	TypeNumber Type = "number"
	TypeBool   Type = "bool"
	TypeList   Type = "list"
	TypeObject Type = "object"
	TypeAny    Type = "any"
)

var types = []Type{TypeString, TypeNumber, TypeBool, TypeList, TypeObject, TypeAny}

func joinTypes() string {
	return strings.Trim(strings.Join(strings.Fields(fmt.Sprint(types)), ", "), "[]")
}

// Field is a field of a request.
type Field struct {
	Name     string
	Type     Type
	Required bool
	Default  any // used if the field is missing or null
	MaxBytes int // of its JSON, or of a string's text
	MaxItems int // of a list
}

// The ids of the user and the project are always checked.
const (
	fieldUser    = "user_id"
	fieldProject = "project_id"
)

var fieldForm = pattern.New(`^[a-zA-Z][a-zA-Z0-9_]{0,63}$`)

// name returns the type with an article, for errors.
func (t Type) name() string {
	switch t {
	case TypeObject:
		return "an object"
	case TypeAny:
		return "any value"
	}
	return "a " + string(t)
}

// zeros holds the zero value of each type, as encoding/json decodes it. They are
// not changed.
var zeros = map[Type]any{TypeNumber: 0.0, TypeBool: false, TypeList: []any{}, TypeObject: map[string]any{}, TypeString: "", TypeAny: ""}

func (t Type) zero() any { return zeros[t] }

// fits reports whether a value decoded by encoding/json has the type.
func (t Type) fits(v any) bool {
	if t == TypeAny {
		return v != nil
	}
	zero, known := zeros[t]
	return known && reflect.TypeOf(v) == reflect.TypeOf(zero)
}

// request is a request with checked fields.
type request struct {
	values  map[string]any // a value for each field of the endpoint
	user    dreamcore.UserID
	project dreamcore.ProjectID
}

// read checks the body of a request. Errors have CodeInvalid or CodeTooLarge and
// the texts of the contract.
func (e *Endpoint) read(body []byte) (r request, err error) {
	given, err := object(body)
	if err != nil {
		return r, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid JSON", Hint: "send one JSON object in UTF-8", Err: err}
	}
	r.values = make(map[string]any, len(e.Fields))
	for _, f := range e.Fields {
		v, err := f.read(given[f.Name])
		if err != nil {
			return r, err
		}
		r.values[f.Name] = v
	}
	// The account of a call does not depend on the fields that the file declares.
	r.user, r.project = r.ids(given)
	return r, nil
}

// ids returns the ids of a request, "" for invalid ones.
func (r request) ids(given map[string]json.RawMessage) (dreamcore.UserID, dreamcore.ProjectID) {
	var user, project string
	_ = json.Unmarshal(given[fieldUser], &user)
	_ = json.Unmarshal(given[fieldProject], &project)
	u, err := dreamcore.ParseUserID(user)
	if err != nil {
		u = ""
	}
	p, err := dreamcore.ParseProjectID(project)
	if err != nil {
		p = ""
	}
	return u, p
}

// object returns the members of the JSON object in body. Of duplicate names the
// last one counts.
func object(body []byte) (m map[string]json.RawMessage, err error) {
	body = bytes.TrimSpace(bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")))
	if !utf8.Valid(body) {
		return nil, errors.New("the body is not UTF-8")
	}
	if !bytes.HasPrefix(body, []byte("{")) {
		return nil, errors.New("the body is not a JSON object")
	}
	return m, json.Unmarshal(body, &m)
}

// read returns the value of the field; raw is nil if it is missing.
func (f Field) read(raw json.RawMessage) (any, error) {
	missing := len(raw) == 0 || string(raw) == "null"
	var v any
	if !missing {
		if err := json.Unmarshal(raw, &v); err != nil {
			return nil, f.invalid("must be JSON")
		}
	}
	if s, ok := v.(string); ok && strings.TrimSpace(s) == "" && f.Required {
		missing = true
	}
	switch {
	case missing && f.Required:
		return nil, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: f.Name + " is required"}
	case missing:
		return f.Default, nil
	case !f.Type.fits(v):
		return nil, f.invalid("must be " + f.Type.name())
	}
	return v, f.check(raw, v)
}

// check bounds a value of the right type.
func (f Field) check(raw json.RawMessage, v any) error {
	size := len(raw)
	switch v := v.(type) {
	case string:
		size = len(v)
		if err := f.checkID(v); err != nil {
			return err
		}
	case []any:
		if len(v) > f.MaxItems {
			return f.tooLarge(fmt.Sprintf("%d items", f.MaxItems))
		}
	}
	if size > f.MaxBytes {
		return f.tooLarge(fmt.Sprintf("%d bytes", f.MaxBytes))
	}
	return nil
}

func (f Field) checkID(v string) error {
	if v == "" && !f.Required {
		return nil
	}
	var err error
	switch f.Name {
	case fieldUser:
		_, err = dreamcore.ParseUserID(v)
	case fieldProject:
		_, err = dreamcore.ParseProjectID(v)
	}
	return err
}

func (f Field) invalid(why string) error {
	return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "Invalid " + f.Name + ": " + why}
}

func (f Field) tooLarge(most string) error {
	return &dreamcore.Error{Code: dreamcore.CodeTooLarge, Message: f.Name + " is too long: at most " + most, Hint: "shorten " + f.Name}
}

package prompt

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Body returns the body of a request with fields given as FIELD=VALUE. The value
// of a field of the type string or any is text, of another type JSON. An invalid
// argument is an Error with CodeInvalid.
func (e *Endpoint) Body(arguments []string) ([]byte, error) {
	body := map[string]any{}
	for _, arg := range arguments {
		name, value, ok := strings.Cut(arg, "=")
		i := slices.IndexFunc(e.Fields, func(f Field) bool { return f.Name == name })
		switch {
		case !ok:
			return nil, badArgument(`write it like message="make it faster"`, "%q is not FIELD=VALUE", arg)
		case i < 0 && name != "user_id" && name != "project_id":
			return nil, badArgument("its fields: "+strings.Join(e.fieldNames(), ", "), "%s has no field %q", e.Name, name)
		case i < 0 || e.Fields[i].Type == TypeString || e.Fields[i].Type == TypeAny:
			body[name] = value
		case !json.Valid([]byte(value)):
			return nil, badArgument(fmt.Sprintf("the field has the type %s", e.Fields[i].Type), "%s=%s is not JSON", name, value)
		default:
			body[name] = json.RawMessage(value)
		}
	}
	return json.Marshal(body)
}

func (e *Endpoint) fieldNames() []string {
	names := make([]string, len(e.Fields))
	for i, f := range e.Fields {
		names[i] = f.Name
	}
	return names
}

func badArgument(hint, format string, args ...any) error {
	return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: fmt.Sprintf(format, args...), Hint: hint}
}

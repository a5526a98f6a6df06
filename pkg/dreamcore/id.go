package dreamcore

import (
	"fmt"
	"strings"

	"github.com/google/uuid"
)

// UserID and ProjectID are UUIDs in canonical form: 8-4-4-4-12 hexadecimal
// digits, lower case. Untrusted text becomes one only through ParseUserID and
// ParseProjectID, so a value of these types is safe as a path element.
type (
	UserID    string
	ProjectID string
)

// ParseUserID accepts the canonical form in upper or lower case and nothing
// else: no braces, no "urn:uuid:", no white space. The result is lower case, so
// that two spellings of one id map to the same directory.
func ParseUserID(s string) (UserID, error) {
	id, err := parseID("user_id", s)
	return UserID(id), err
}

// ParseProjectID is ParseUserID for the id of a project.
func ParseProjectID(s string) (ProjectID, error) {
	id, err := parseID("project_id", s)
	return ProjectID(id), err
}

// NewUserID and NewProjectID return random (version 4) ids.
func NewUserID() UserID       { return UserID(uuid.NewString()) }
func NewProjectID() ProjectID { return ProjectID(uuid.NewString()) }

// canonicalLength is the length of a UUID in its 8-4-4-4-12 form.
const canonicalLength = 36

func parseID(field, s string) (string, error) {
	if s == "" {
		return "", &Error{Code: CodeInvalid, Message: field + " is required"}
	}
	// uuid.Parse also accepts braces, "urn:uuid:" and 32 bare digits. All of
	// them have another length, so the length check leaves the canonical form.
	if len(s) == canonicalLength {
		if id, err := uuid.Parse(s); err == nil {
			return strings.ToLower(id.String()), nil
		}
	}
	return "", &Error{
		Code:    CodeInvalid,
		Message: fmt.Sprintf("Invalid %s: must be UUID format", field),
		Hint:    "use the form 123e4567-e89b-42d3-a456-426614174000",
	}
}

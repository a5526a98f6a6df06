package archive

import (
	"errors"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// ParseScope parses the scope of an export: a project, perhaps of a named user, or all
// projects of a user, or all.
func ParseScope(projects []string, user string, all bool) (scope Scope, err error) {
	if len(projects) == 0 && user == "" && !all || all && (user != "" || len(projects) > 0) {
		return scope, errors.New("name one project (with --user UUID if several users have it), or --user UUID, or --all; and the destination")
	}
	if user != "" {
		if scope.User, err = dreamcore.ParseUserID(user); err != nil {
			return scope, err
		}
	}
	if len(projects) > 0 {
		scope.Project, err = dreamcore.ParseProjectID(projects[0])
	}
	return scope, err
}

// ParseUserMap parses ImportOptions.Users.
func ParseUserMap(names map[string]string) (map[dreamcore.UserID]dreamcore.UserID, error) {
	owners := map[dreamcore.UserID]dreamcore.UserID{}
	for from, to := range names {
		old, err := dreamcore.ParseUserID(from)
		if err != nil {
			return nil, err
		}
		if owners[old], err = dreamcore.ParseUserID(to); err != nil {
			return nil, err
		}
	}
	return owners, nil
}

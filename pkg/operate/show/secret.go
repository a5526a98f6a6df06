package show

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

type secretRow struct {
	Name    string    `json:"name"`
	Keys    []string  `json:"keys"`
	Created time.Time `json:"created,omitzero"`
	Mounted bool      `json:"mounted,omitempty"`
	Error   string    `json:"error,omitempty"`
}

// Secrets shows the secrets that are stored, without their values.
func Secrets(io *term.IO, secrets []secret.Info) error {
	return List[secret.Info]{
		Key: "secrets", Columns: Columns("NAME", "~KEYS", "CREATED"),
		Row: func(i secret.Info) any {
			r := secretRow{Name: i.Name, Keys: i.Keys, Created: i.Created, Mounted: i.Mounted}
			if i.Err != nil {
				r.Error = i.Err.Error()
			}
			return r
		},
		Cells: func(i secret.Info) []string {
			keys := strings.Join(i.Keys, ", ")
			if i.Err != nil {
				keys = "cannot be opened: " + i.Err.Error()
			}
			created := term.Time(i.Created)
			if i.Mounted {
				created = "mounted"
			}
			return []string{i.Name, keys, created}
		},
		Empty: "There are no secrets yet", Hint: "run: dreamcore setup",
	}.Show(io, secrets, nil)
}

// SecretValues prints the values of a secret: a single one without its key, for scripts.
func SecretValues(io *term.IO, values map[string]string) error {
	if io.JSON {
		return io.WriteJSON(values)
	}
	for _, k := range slices.Sorted(maps.Keys(values)) {
		line := values[k]
		if len(values) > 1 {
			line = k + "=" + line
		}
		if err := io.WriteLine([]byte(line)); err != nil {
			return err
		}
	}
	return nil
}

// RotatedSecret shows the new value of the internal secret.
func RotatedSecret(io *term.IO, value string) error {
	return Value(io, map[string]string{"name": secret.InternalSecret, "value": value}, func(p *term.Printer) {
		p.Pairs(term.Pair{Key: secret.InternalKey, Value: value, Tone: term.Strong})
		p.Success("The internal secret has a new value; the previous one stays valid")
		p.Hint("when no front end sends the previous value any more, run: dreamcore secret rotate --finish")
	})
}

// FinishedRotation shows whether there was a previous value to invalidate.
func FinishedRotation(io *term.IO, ended bool) error {
	return Value(io, map[string]any{"name": secret.InternalSecret, "finished": ended}, func(p *term.Printer) {
		if ended {
			p.Success("The previous value of the internal secret is no longer valid")
		} else {
			p.Info("There is no rotation to finish: only one value is valid")
		}
	})
}

// Package corpus reads the games of testdata/games: good games, games that are
// broken in known ways, and hostile pages. Only tests import it: those of the
// check of games, and its own, which keeps the table and the folders in step.
//
// corpus.go has the table, copy.go makes a case ready to be served.
package corpus

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
	"go.yaml.in/yaml/v3"
)

// Kind is the group of a case, and the folder that it is in.
type Kind string

// The kinds of cases.
const (
	Good    Kind = "good"    // plays: no check may fail
	Broken  Kind = "broken"  // one of Case.Fails must fail
	Hostile Kind = "hostile" // attacks the check: any verdict, within the bounds
)

// Case is a line of the table.
type Case struct {
	Name     string    `yaml:"-"` // of the folder
	Kind     Kind      `yaml:"-"`
	About    string    `yaml:"about"`    // one sentence
	Needs    []string  `yaml:"needs"`    // features that a browser may lack; only "webgl" is known
	Packages []Package `yaml:"packages"` // files of npm packages that the game uses
	Fails    []Failure `yaml:"fails"`    // of a broken game
	// Undecided says why a check cannot tell this broken game from some good ones:
	// the verdict may be unknown, but not passed.
	Undecided string `yaml:"undecided"`

	games string // the folder of the table
}

// Package is a file of an npm package, which scripts/games.sh installs.
type Package struct {
	Package string `yaml:"package"` // with its version, such as p5@1.11.10
	File    string `yaml:"file"`    // path in the package
	To      string `yaml:"to"`      // path in the game
}

// Failure is a check that a broken game may fail. Empty fields match everything.
type Failure struct {
	Check   verdict.Name   `yaml:"check"`
	Screen  verdict.Screen `yaml:"screen"`
	File    string         `yaml:"file"`    // path in the project that the check names
	Line    int            `yaml:"line"`    // from 1
	Message string         `yaml:"message"` // fragment of the message, in any case
}

// Load returns the cases of the folder games in the order good, broken, hostile,
// each sorted by name. It fails if the table has an unknown field or check.
func Load(games string) ([]Case, error) {
	data, err := os.ReadFile(filepath.Join(games, "cases.yaml"))
	if err != nil {
		return nil, fmt.Errorf("read the table of games: %w", err)
	}
	var table struct {
		Good    map[string]Case   `yaml:"good"`
		Broken  map[string]Case   `yaml:"broken"`
		Hostile map[string]string `yaml:"hostile"` // only the sentence
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	if err := decoder.Decode(&table); err != nil {
		return nil, fmt.Errorf("read the table of games: %w", err)
	}
	hostile := make(map[string]Case, len(table.Hostile))
	for name, about := range table.Hostile {
		hostile[name] = Case{About: about}
	}
	var cases []Case
	for _, group := range []struct {
		kind  Kind
		cases map[string]Case
	}{{Good, table.Good}, {Broken, table.Broken}, {Hostile, hostile}} {
		first := len(cases)
		for name, c := range group.cases {
			c.Name, c.Kind, c.games = name, group.kind, games
			if err := c.check(); err != nil {
				return nil, fmt.Errorf("cases.yaml: %s/%s: %w", c.Kind, name, err)
			}
			cases = append(cases, c)
		}
		slices.SortFunc(cases[first:], func(a, b Case) int { return strings.Compare(a.Name, b.Name) })
	}
	return cases, nil
}

// versioned matches a package with an exact version.
var versioned = regexp.MustCompile(`^(@[a-z0-9-]+/)?[a-z0-9.-]+@\d+\.\d+\.\d+$`)

var names = []verdict.Name{
	verdict.Loads, verdict.Errors, verdict.Offline, verdict.Draws, verdict.Moves, verdict.Keys, verdict.Touch,
	verdict.Pointer, verdict.Responsive, verdict.Memory, verdict.Stays, verdict.Dialogs, verdict.Fits,
}

func (c Case) check() error {
	if c.About == "" {
		return fmt.Errorf("about is empty")
	}
	if (len(c.Fails) > 0) != (c.Kind == Broken) {
		return fmt.Errorf("fails belongs to broken games, and to each of them")
	}
	if c.Undecided != "" && c.Kind != Broken {
		return fmt.Errorf("undecided belongs to broken games")
	}
	for _, f := range c.Fails {
		if !slices.Contains(names, f.Check) {
			return fmt.Errorf("fails: unknown check %q", f.Check)
		}
		if f.Screen != "" && f.Screen != verdict.Phone && f.Screen != verdict.Desktop {
			return fmt.Errorf("fails: unknown screen %q", f.Screen)
		}
	}
	for _, need := range c.Needs {
		if need != "webgl" {
			return fmt.Errorf("needs: unknown feature %q", need)
		}
	}
	for _, p := range c.Packages {
		if !versioned.MatchString(p.Package) || p.File == "" || p.To == "" {
			return fmt.Errorf("packages: want a package with an exact version, a file and a path in the game, not %+v", p)
		}
	}
	return nil
}

// Matches reports whether check is the failure f.
func (f Failure) Matches(check verdict.Check) bool {
	return check.Status == verdict.Failed && check.Name == f.Check &&
		(f.Screen == "" || check.Screen == f.Screen) &&
		(f.File == "" || check.File == f.File) &&
		(f.Line == 0 || check.Line == f.Line) &&
		strings.Contains(strings.ToLower(check.Message), strings.ToLower(f.Message))
}

// Wrong returns why report contradicts the table, or "". The report of a hostile
// page is never wrong. Do not ask for a case whose Needs the browser lacks.
func (c Case) Wrong(report verdict.Report) string {
	switch c.Kind {
	case Good:
		for _, check := range report.Checks {
			if check.Status == verdict.Failed {
				return fmt.Sprintf("a good game fails %s on %s: %s (%s:%d)", check.Name, check.Screen, check.Message, check.File, check.Line)
			}
		}
		if report.Verdict == verdict.Failed {
			return "a good game fails without a check that does"
		}
	case Broken:
		if c.Undecided != "" && report.Verdict == verdict.Unknown {
			return ""
		}
		if report.Verdict != verdict.Failed {
			return fmt.Sprintf("a broken game has the verdict %q", report.Verdict)
		}
		for _, f := range c.Fails {
			if slices.ContainsFunc(report.Checks, f.Matches) {
				return ""
			}
		}
		return fmt.Sprintf("no check fails as the table says: %+v", c.Fails)
	}
	return ""
}

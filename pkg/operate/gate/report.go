package gate

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// Report is the result of a run. Its JSON form must not change: scripts read it.
type Report struct {
	Endpoint string   `json:"endpoint"`
	Passed   bool     `json:"passed"` // every chosen gate passed, or passed relaxed
	Gates    []Result `json:"gates"`
}

// Result is the result of one gate.
type Result struct {
	Number  int     `json:"number"`
	Name    string  `json:"name"`
	Status  Status  `json:"status"`
	Detail  string  `json:"detail"`  // one line of clean text
	Seconds float64 `json:"seconds"` // rounded to milliseconds

	Evidence []client.Evidence `json:"evidence,omitempty"` // of a deep gate

	err error // the cause of a failure; nil otherwise
}

func (r Report) count(statuses ...Status) (n int) {
	for _, g := range r.Gates {
		if slices.Contains(statuses, g.Status) {
			n++
		}
	}
	return n
}

// Err returns nil for a report that passed, otherwise an Error for the exit code:
// CodeUnreachable if the server did not answer, CodeUnauthorized if it rejected
// the secret, else CodeInternal. Hint and reason are those of the first failure.
func (r Report) Err() error {
	if r.Passed {
		return nil
	}
	e := &dreamcore.Error{Code: dreamcore.CodeInternal, Message: r.summary()}
	for _, g := range r.Gates {
		if g.Status != Fail {
			continue
		}
		switch code := dreamcore.CodeOf(g.err); code {
		case dreamcore.CodeUnreachable, dreamcore.CodeUnauthorized:
			e.Code = code
		}
		e.Hint, e.Reason = dreamcore.HintOf(g.err), dreamcore.ReasonOf(g.err)
		break
	}
	return e
}

// summary returns the number of gates by status as a sentence.
func (r Report) summary() string {
	text := fmt.Sprintf("%d of %d gates passed", r.count(Pass, Relaxed), len(r.Gates))
	if n := r.count(Fail); n > 0 {
		text += fmt.Sprintf(", %d failed", n)
	}
	if n := r.count(Skipped); n > 0 {
		text += fmt.Sprintf(", %d skipped", n)
	}
	if n := r.count(Relaxed); n > 0 && r.Passed {
		text += fmt.Sprintf(", %d of them relaxed", n)
	}
	return text
}

// WriteJSON writes the report as one JSON object on one line.
func (r Report) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(r); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// Write writes the report for programs: with --json to standard output, and to the
// file junit unless that is "".
func (r Report) Write(io *term.IO, junit string) (err error) {
	if io.JSON {
		err = r.WriteJSON(io.Out)
	}
	if junit == "" {
		return err
	}
	f, openErr := os.Create(filepath.Clean(junit))
	if openErr != nil {
		return errors.Join(err, &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Message: "the JUnit report cannot be written", Err: openErr,
			Hint: "name a file in a directory that exists with --junit FILE",
		})
	}
	return errors.Join(err, r.WriteJUnit(f), f.Close())
}

// The elements of a JUnit report.
type (
	junitSuites struct {
		XMLName xml.Name `xml:"testsuites"`
		Name    string   `xml:"name,attr"`
		junitCounts
		Suite junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name string `xml:"name,attr"`
		junitCounts
		Properties []junitProperty `xml:"properties>property"`
		Cases      []junitCase     `xml:"testcase"`
	}
	junitCounts struct {
		Tests    int    `xml:"tests,attr"`
		Failures int    `xml:"failures,attr"`
		Errors   int    `xml:"errors,attr"`
		Skipped  int    `xml:"skipped,attr"`
		Time     string `xml:"time,attr"`
	}
	junitProperty struct {
		Name  string `xml:"name,attr"`
		Value string `xml:"value,attr"`
	}
	junitCase struct {
		Class   string        `xml:"classname,attr"`
		Name    string        `xml:"name,attr"`
		Time    string        `xml:"time,attr"`
		Failure *junitMessage `xml:"failure"`
		Skipped *junitMessage `xml:"skipped"`
		Output  string        `xml:"system-out,omitempty"`
	}
	junitMessage struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr,omitempty"`
		Text    string `xml:",chardata"`
	}
)

// WriteJUnit writes the report as JUnit XML with one test case for each gate.
func (r Report) WriteJUnit(w io.Writer) error {
	const class = dreamcore.AppName + ".gate"
	suite := junitSuite{Name: class, Properties: []junitProperty{{"endpoint", r.Endpoint}}}
	total := 0.0
	for _, g := range r.Gates {
		total += g.Seconds
		c := junitCase{Class: class, Name: fmt.Sprintf("%d %s", g.Number, g.Name), Time: seconds(g.Seconds)}
		switch g.Status {
		case Fail:
			c.Failure = &junitMessage{Message: g.Detail, Type: string(Fail), Text: g.Detail}
		case Skipped:
			c.Skipped = &junitMessage{Message: g.Detail}
		default:
			c.Output = string(g.Status) + ": " + g.Detail
		}
		for _, e := range g.Evidence {
			c.Output += fmt.Sprintf("\n%s: %s (%s s)", e.Tried, e.Seen, seconds(e.Seconds))
		}
		suite.Cases = append(suite.Cases, c)
	}
	suite.junitCounts = junitCounts{
		Tests: len(r.Gates), Failures: r.count(Fail), Skipped: r.count(Skipped), Time: seconds(total),
	}
	// The encoder replaces characters that XML cannot represent by U+FFFD.
	text, err := xml.MarshalIndent(junitSuites{Name: dreamcore.AppName + " gate", junitCounts: suite.junitCounts, Suite: suite}, "", "  ")
	if err != nil {
		return fmt.Errorf("encode JUnit report: %w", err)
	}
	if _, err := fmt.Fprintf(w, "%s%s\n", xml.Header, text); err != nil {
		return fmt.Errorf("write JUnit report: %w", err)
	}
	return nil
}

func seconds(s float64) string { return strconv.FormatFloat(s, 'f', 3, 64) }

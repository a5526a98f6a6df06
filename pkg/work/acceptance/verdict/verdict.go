// Package verdict has the report of a check of a game. The program in the sandbox
// writes it and the host reads it, so both import this package and nothing else of
// each other. Everything that is read here is hostile: Parse bounds it.
package verdict

import "time"

// Status is the result of one check, and of all of them.
type Status string

// The three results. A check that cannot decide is Unknown and blocks nothing.
const (
	Passed  Status = "passed"
	Failed  Status = "failed"
	Unknown Status = "unknown"
)

// Name names a check.
type Name string

// The checks, in the order in which a report lists them.
const (
	Loads      Name = "loads"      // the page and every file it asks for are there
	Errors     Name = "errors"     // no uncaught error, no unhandled rejection, no console error
	Offline    Name = "offline"    // no address outside of the project, except the allowed hosts
	Draws      Name = "draws"      // something is seen: not blank, not one colour
	Moves      Name = "moves"      // it moves by itself or after the first input
	Keys       Name = "keys"       // it reacts to the keyboard
	Touch      Name = "touch"      // it reacts to touch
	Pointer    Name = "pointer"    // it reacts to the mouse
	Responsive Name = "responsive" // the main thread answers
	Memory     Name = "memory"     // the memory does not grow without end
	Stays      Name = "stays"      // it does not leave its page, open others or download
	Dialogs    Name = "dialogs"    // no dialog blocks it
	Fits       Name = "fits"       // nothing essential is outside of the screen
)

// Screen is a size at which a game is checked.
type Screen string

// The screens: 390 × 844 points at two pixels each with touch, and 1280 × 720.
const (
	Phone   Screen = "phone"
	Desktop Screen = "desktop"
)

// Check is the result of one check on one screen.
type Check struct {
	Name    Name   `json:"name"`
	Screen  Screen `json:"screen"`
	Status  Status `json:"status"`
	Message string `json:"message,omitempty"` // one English sentence for the agent and the operator; at most MaxMessage bytes
	File    string `json:"file,omitempty"`    // path in the project
	Line    int    `json:"line,omitempty"`    // from 1; 0 if unknown
	Column  int    `json:"column,omitempty"`  // from 1; 0 if unknown
}

// Shot is a picture of the game.
type Shot struct {
	Screen Screen `json:"screen"`
	PNG    []byte `json:"png"` // at most MaxShot bytes
}

// Report is the result of a check of a game.
type Report struct {
	Verdict Status  `json:"verdict"` // Failed if a check failed; Passed if the others show that it plays; else Unknown
	Checks  []Check `json:"checks"`  // at most MaxChecks
	Shots   []Shot  `json:"shots,omitempty"`
	Browser string  `json:"browser,omitempty"` // product and version
	Millis  int64   `json:"millis"`            // from the request to the verdict
}

// Request asks the program in the sandbox for one check. It is one line of JSON
// on the program's standard input.
type Request struct {
	Port   int           `json:"port"`            // of the file server, on the sandbox's loopback
	Hosts  []string      `json:"hosts,omitempty"` // that the page may ask for (preview_hosts)
	Limit  time.Duration `json:"limit"`           // of the whole check, in nanoseconds
	Pixels bool          `json:"pixels"`          // pictures are wanted
}

// Line is one line of JSON on the program's standard output: first Ready, then
// one Report or Error for each request; or Port, of the file server.
type Line struct {
	Ready  string  `json:"ready,omitempty"` // the browser's product and version: it has started
	Report *Report `json:"report,omitempty"`
	Error  string  `json:"error,omitempty"` // why there is no report
	Port   int     `json:"port,omitempty"`
}

// The bounds of a report.
const (
	MaxLine    = 4 << 20 // bytes of a line of output
	MaxChecks  = 64
	MaxMessage = 500     // bytes
	MaxPath    = 300     // bytes
	MaxShot    = 1 << 20 // bytes
)

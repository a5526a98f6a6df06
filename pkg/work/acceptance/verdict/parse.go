package verdict

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Names are all checks, in the order of a report.
var Names = []Name{Loads, Errors, Offline, Draws, Moves, Keys, Touch, Pointer, Responsive, Memory, Stays, Dialogs, Fits}

// Screens are all screens, in the order of a report.
var Screens = []Screen{Phone, Desktop}

// More bounds of a report.
const (
	MaxShots     = 2       // one of each screen
	MaxDimension = 4096    // pixels of a picture's side
	MaxMillis    = 3600000 // an hour
	MaxPosition  = 1 << 30 // of a line or a column
	maxProduct   = 100     // bytes of the browser's name
)

// Parse reads one line of output of the program in the sandbox, without or with
// its line feed. Its result keeps every bound of this package: exactly one
// field is set, values are known, texts are valid UTF-8 of one line, paths stay in
// the project, and pictures are PNG files of bounded size.
func Parse(line []byte) (Line, error) {
	l, err := parse(line)
	if err != nil {
		err = errors.New(brief(err.Error()))
	}
	return l, err
}

// brief bounds the text of an error, which may quote the line.
func brief(text string) string {
	if len(text) <= MaxMessage {
		return text
	}
	return strings.ToValidUTF8(text[:MaxMessage], "") + "…"
}

func parse(line []byte) (Line, error) {
	if len(line) > MaxLine {
		return Line{}, fmt.Errorf("the line has %d bytes; at most %d are allowed", len(line), MaxLine)
	}
	if !utf8.Valid(line) {
		return Line{}, errors.New("the line is not UTF-8")
	}
	if err := bounded(line); err != nil {
		return Line{}, err
	}
	var l Line
	if err := json.Unmarshal(line, &l); err != nil {
		return Line{}, err
	}
	return l, l.check()
}

// bounded refuses a line with more values than a report can have, before they are
// built.
func bounded(line []byte) error {
	d := json.NewDecoder(bytes.NewReader(line))
	for n := 0; ; n++ {
		switch _, err := d.Token(); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case n > 20*MaxChecks+100:
			return errors.New("the line has too many values")
		}
	}
}

func (l *Line) check() error {
	set := 0
	for _, is := range []bool{l.Ready != "", l.Report != nil, l.Error != "", l.Port != 0} {
		if is {
			set++
		}
	}
	switch {
	case set != 1:
		return errors.New("a line has exactly one of ready, report, error and port")
	case l.Report != nil:
		return l.Report.check()
	case l.Port < 0 || l.Port > 65535:
		return fmt.Errorf("port %d is not a port", l.Port)
	}
	return errors.Join(text("ready", l.Ready, maxProduct), text("error", l.Error, MaxMessage))
}

func (r *Report) check() error {
	switch {
	case !r.Verdict.valid():
		return fmt.Errorf("verdict %q is unknown", cut(string(r.Verdict)))
	case len(r.Checks) > MaxChecks:
		return fmt.Errorf("the report has %d checks; at most %d are allowed", len(r.Checks), MaxChecks)
	case len(r.Shots) > MaxShots:
		return fmt.Errorf("the report has %d pictures; at most %d are allowed", len(r.Shots), MaxShots)
	case r.Millis < 0 || r.Millis > MaxMillis:
		return errors.New("millis is out of bounds")
	}
	if err := text("browser", r.Browser, maxProduct); err != nil {
		return err
	}
	failed := false
	for _, c := range r.Checks {
		if err := c.check(); err != nil {
			return err
		}
		failed = failed || c.Status == Failed
	}
	if failed != (r.Verdict == Failed) {
		return errors.New("the verdict contradicts the checks")
	}
	for i, s := range r.Shots {
		if !slices.Contains(Screens, s.Screen) {
			return fmt.Errorf("screen %q is unknown", cut(string(s.Screen)))
		}
		if slices.ContainsFunc(r.Shots[:i], func(o Shot) bool { return o.Screen == s.Screen }) {
			return errors.New("a screen has two pictures")
		}
		if err := checkPNG(s.PNG); err != nil {
			return err
		}
	}
	return nil
}

func (c *Check) check() error {
	switch {
	case !slices.Contains(Names, c.Name):
		return fmt.Errorf("check %q is unknown", cut(string(c.Name)))
	case !slices.Contains(Screens, c.Screen):
		return fmt.Errorf("screen %q is unknown", cut(string(c.Screen)))
	case !c.Status.valid():
		return fmt.Errorf("status %q is unknown", cut(string(c.Status)))
	case c.Line < 0 || c.Line > MaxPosition || c.Column < 0 || c.Column > MaxPosition:
		return errors.New("a position is out of bounds")
	case c.File != "" && !InProject(c.File):
		return fmt.Errorf("file %q is not a path in a project", cut(c.File))
	}
	return errors.Join(text("message", c.Message, MaxMessage), text("file", c.File, MaxPath))
}

// InProject reports whether a name is a path in a project; a folder ends in "/".
func InProject(name string) bool {
	name = strings.TrimSuffix(name, "/")
	return name != "" && name != "." && !strings.HasPrefix(name, "/") && path.Clean(name) == name && name != ".." && !strings.HasPrefix(name, "../")
}

func (s Status) valid() bool { return s == Passed || s == Failed || s == Unknown }

// text checks a text of one line.
func text(field, s string, limit int) error {
	switch {
	case len(s) > limit:
		return fmt.Errorf("%s has %d bytes; at most %d are allowed", field, len(s), limit)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !Printable(r) }):
		return fmt.Errorf("%s has characters that are not text", field)
	}
	return nil
}

// Printable reports whether a character may be part of a message: terminals and
// logs show it, and it changes nothing around it.
func Printable(r rune) bool { return r == ' ' || unicode.IsGraphic(r) && !unicode.IsSpace(r) }

func cut(s string) string { return s[:min(len(s), 40)] }

// checkPNG checks the header of a picture: what reads it later allocates by its
// dimensions.
func checkPNG(raw []byte) error {
	const header = "\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
	if len(raw) > MaxShot {
		return fmt.Errorf("a picture has %d bytes; at most %d are allowed", len(raw), MaxShot)
	}
	if len(raw) < len(header)+8 || string(raw[:len(header)]) != header {
		return errors.New("a picture is not a PNG file")
	}
	w, h := binary.BigEndian.Uint32(raw[len(header):]), binary.BigEndian.Uint32(raw[len(header)+4:])
	if w < 1 || h < 1 || w > MaxDimension || h > MaxDimension {
		return fmt.Errorf("a picture has %d × %d pixels; at most %d × %d are allowed", w, h, MaxDimension, MaxDimension)
	}
	return nil
}

package browser

import (
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/chromedp/cdproto/runtime"

	"github.com/notef-neighbor/dreamcore/pkg/system/pattern"
)

// state is the report of the instrumentation of a page. The page could have faked all
// of it, which would harm only its own author.
type state struct {
	Kinds     map[string]int `json:"kinds"` // listeners by kind of input
	Controls  []control      `json:"controls"`
	Canvases  [][4]float64   `json:"canvases"` // left, top, width, height
	Stages    []string       `json:"stages"`   // of each element that listens for the pointer: what lies over it
	Cut       int            `json:"cut"`      // elements for input beyond the right edge of something that is cut off
	Links     int            `json:"links"`
	Fields    int            `json:"fields"`
	Frames    int            `json:"frames"` // iframes and plug-ins
	Media     int            `json:"media"`  // players with controls
	Shadow    int            `json:"shadow"` // trees that cannot be searched
	Animated  int            `json:"animated"`
	Arrived   map[string]int `json:"arrived"`
	Prevented map[string]int `json:"prevented"`
	Opened    []opened       `json:"opened"`
	Texts     []string       `json:"texts"` // drawn on canvases
	Ready     string         `json:"ready"`
	View      [3]float64     `json:"view"` // visible part: width, height, zoom
	Inner     [2]float64     `json:"inner"`
	Page      [2]float64     `json:"page"`
	Scrolled  [2]float64     `json:"scrolled"`
	HiddenX   bool           `json:"hiddenX"` // cut off, not scrolled
	HiddenY   bool           `json:"hiddenY"`
	Text      string         `json:"text"`
	Lib       []string       `json:"lib"`
	Children  []*state       `json:"children"`
}

type opened struct {
	URL    string `json:"url"`
	Active bool   `json:"active"` // after an input
}

// control is an element that takes input.
type control struct {
	Tag      string     `json:"tag"`
	Box      [4]float64 `json:"box"`
	Text     string     `json:"text"`
	ID       string     `json:"id"`
	Type     string     `json:"type"`
	Button   bool       `json:"button"`
	Link     bool       `json:"link"`
	Field    bool       `json:"field"`
	Pointed  bool       `json:"pointed"` // not a button, but it listens
	Out      bool       `json:"out"`     // a link to another site
	Disabled bool       `json:"disabled"`
	Live     bool       `json:"live"` // an input on it reaches a listener
}

const maxState = 512 << 10 // bytes of JSON

// state asks the page for its state.
func (t *tab) state(ctx context.Context) (*state, error) {
	yes := true
	r, err := call(ctx, t.page, runtime.Evaluate, runtime.EvaluateParams{
		Expression: "globalThis[" + quote(t.secret) + "]()", ReturnByValue: &yes, Silent: &yes,
	})
	if err != nil {
		return nil, err
	}
	if r.ExceptionDetails != nil || r.Result == nil {
		return nil, errors.New("the page's state cannot be read")
	}
	var text string
	if err := json.Unmarshal(r.Result.Value, &text); err != nil {
		return nil, err
	}
	if len(text) > maxState {
		return nil, errors.New("the page's state is too long")
	}
	var s state
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return nil, err
	}
	for _, c := range s.Children {
		s.merge(c)
	}
	return &s, nil
}

func quote(s string) string {
	raw, _ := json.Marshal(s) // a string cannot fail
	return string(raw)
}

// merge adds the listeners of a frame.
func (s *state) merge(c *state) {
	if c == nil {
		return
	}
	for _, child := range c.Children {
		c.merge(child)
	}
	if s.Kinds == nil {
		s.Kinds = map[string]int{}
	}
	for k, n := range c.Kinds {
		s.Kinds[k] += n
	}
	s.Links += c.Links
	s.Fields += c.Fields
	s.Texts = append(s.Texts, c.Texts...)
	s.Opened = append(s.Opened, c.Opened...)
	s.Text += " " + c.Text
	s.Lib = append(s.Lib, c.Lib...)
	for _, o := range c.Controls {
		if o.Button {
			s.Frames++ // its place on the screen is not known, so it counts as unseen
			break
		}
	}
}

// listens reports whether the page has listeners of any of the kinds.
func (s *state) listens(kinds ...string) bool {
	return slices.ContainsFunc(kinds, func(k string) bool { return s.Kinds[k] > 0 })
}

// operable reports whether elements take input without a listener.
func (s *state) operable() bool {
	return s.Links > 0 || s.Fields > 0 || s.Frames > 0 || s.Media > 0 || s.Shadow > 0 ||
		slices.ContainsFunc(s.Controls, func(c control) bool { return c.Live })
}

// says reports whether the page's text, drawn text included, matches.
func (s *state) says(re *regexp.Regexp) bool {
	return re.MatchString(s.Text) || slices.ContainsFunc(s.Texts, re.MatchString) ||
		slices.ContainsFunc(s.Controls, func(c control) bool { return re.MatchString(c.Text) })
}

var loadingWords = pattern.New(`(?i)\b(now )?(loading|please wait|preparing|wird geladen|lade|chargement|cargando)\b.{0,12}`)

// loads returns the text of a page that does nothing but load, or "".
func (s *state) loads() string {
	if s.listens(inputs...) || s.operable() || len(s.Text) > 200 {
		return ""
	}
	for _, text := range append([]string{s.Text}, s.Texts[max(0, len(s.Texts)-3):]...) {
		if found := loadingWords().FindString(text); found != "" {
			return clean(found, 40)
		}
	}
	return ""
}

// covered returns the element over every element that listens for the pointer, or "".
func (s *state) covered() string {
	if len(s.Stages) == 0 || slices.Contains(s.Stages, "") || s.Frames+s.Links+s.Fields+s.Media+s.Shadow > 0 {
		return ""
	}
	return s.Stages[0]
}

var startWords = pattern.New(`(?i)\b(start|play|begin|go|new game|continue|tap|click|ok|enter|easy|normal|ready|launch|resume|restart|retry|next|let'?s|fight|run|1 ?player|level 1|los|spiel(en)?|jouer|jugar|commencer|empezar)\b|▶|►`)

// starts returns the controls that a person would press first, best first, that
// are on the screen.
func (s *state) starts() []control {
	var best, buttons, others []control
	for _, c := range s.Controls {
		if c.Disabled || c.Out || c.Field || !s.seen(c.Box) || c.Box[2]*c.Box[3] < 60 {
			continue
		}
		switch {
		case startWords().MatchString(c.Text) || startWords().MatchString(strings.NewReplacer("-", " ", "_", " ").Replace(c.ID)):
			best = append(best, c)
		case c.Button:
			buttons = append(buttons, c)
		case c.Pointed || c.Link:
			others = append(others, c)
		}
	}
	return slices.Concat(best, buttons, others)
}

// seen reports whether the middle of a box is on the screen.
func (s *state) seen(b [4]float64) bool {
	x, y := b[0]+b[2]/2, b[1]+b[3]/2
	return x >= 0 && y >= 0 && x < s.View[0] && y < s.View[1]
}

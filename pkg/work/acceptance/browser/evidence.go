package browser

import (
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

// fault is a defect that was seen, with its place in the project if known.
type fault struct {
	text   string
	file   string
	line   int
	column int
}

// placed returns f without its place if that cannot be in a report: pages choose
// addresses, and with sourceURL even the names of scripts.
func (f fault) placed() fault {
	if clean(f.file, verdict.MaxPath) != f.file || !verdict.InProject(f.file) {
		f.file, f.line, f.column = "", 0, 0
	}
	return f
}

const (
	maxFaults  = 24   // of one kind; more are counted only
	maxDialogs = 10   // of a check; more are a loop
	maxAddress = 2048 // bytes of an address that are kept
)

// evidence has the observations of a page on one screen. Pages determine it, so
// everything is bounded.
type evidence struct {
	screen verdict.Screen
	origin string // of the project
	hosts  []string

	mu        sync.Mutex
	errors    []fault
	missing   []fault
	outside   []fault
	left      []fault // the page left, opened or downloaded something by itself
	leftClick bool    // the same after an input, on a link
	more      int     // faults that are not kept
	helpless  bool    // a file of an allowed host could not be loaded: errors say nothing
	dialogs   []string
	dialogN   int
	navigated int  // documents of the main frame
	loaded    bool // the load event came
	dom       bool // the document was parsed
	noPage    string
	crashed   string // why the renderer ended
	grown     int64  // bytes of memory, when a limit ended it
	leaks     string
	flooded   bool // the console was too busy: later errors are not known
	lost      bool // events were dropped, perhaps pictures too
	input     time.Time
	busy      time.Duration // longest time that the main thread did not answer, without dialogs
	frozen    bool          // it did not answer at the end, and computed meanwhile
	silent    bool          // it did not answer at the end
	asked     map[string]request
	under     map[string]bool // requests under way
}

// request is a request of the page that is under way.
type request struct {
	address string
	asker   fault
	kind    string
}

const maxAsked = 4096

func newEvidence(screen verdict.Screen, origin string, hosts []string) *evidence {
	return &evidence{screen: screen, origin: origin, hosts: hosts, asked: map[string]request{}, under: map[string]bool{}}
}

// note keeps a fault. It must be called with mu held.
func (e *evidence) note(list *[]fault, f fault) {
	f.text = clean(f.text, verdict.MaxMessage)
	f = f.placed()
	if slices.Contains(*list, f) {
		return
	}
	if len(*list) >= maxFaults {
		e.more++
		return
	}
	*list = append(*list, f)
}

// path returns the path in the project of an address; ok is false for others.
func (e *evidence) path(address string) (name string, ok bool) {
	rest, found := strings.CutPrefix(address, e.origin)
	if !found || rest != "" && !strings.ContainsRune("/?#", rune(rest[0])) {
		return "", false
	}
	u, err := url.Parse(address)
	if err != nil {
		return "", false
	}
	name = strings.TrimLeft(path.Clean("/"+u.Path), "/")
	if strings.HasSuffix(u.Path, "/") && name != "" {
		name += "/"
	}
	if name == "" || strings.HasSuffix(name, "/") {
		name += "index.html"
	}
	return name, true
}

// at sets the place of a fault; line and column count from 0.
func (e *evidence) at(f fault, address string, line, column int64) fault {
	if name, ok := e.path(bounded(address)); ok {
		f.file = name
		if line >= 0 && line < 1<<30 {
			f.line = int(line) + 1
			if column >= 0 && column < 1<<30 {
				f.column = int(column) + 1
			}
		}
	}
	return f.placed()
}

// bounded returns the beginning of an address, which does not keep the rest in the
// memory. The beginning is a whole address.
func bounded(address string) string {
	if len(address) <= maxAddress {
		return address
	}
	address = address[:maxAddress]
	if i := strings.IndexAny(address, "?#"); i >= 0 {
		address = address[:i]
	}
	if i := strings.LastIndexByte(address, '%'); i >= len(address)-2 { // half of an escape
		address = address[:max(i, 0)]
	}
	return strings.Clone(strings.ToValidUTF8(address, ""))
}

// foreign reports whether an address is outside of the project, and whether its
// host is allowed.
func (e *evidence) foreign(address string) (outside, allowed bool) {
	u, err := url.Parse(address)
	if err != nil {
		return true, false
	}
	switch u.Scheme {
	case "http", "https", "ws", "wss":
	case "data", "blob", "about", "javascript", "":
		return false, false
	default: // ftp, file, chrome
		return true, false
	}
	if _, ok := e.path(address); ok {
		return false, false
	}
	if host, ok := strings.CutPrefix(e.origin, "http://"); ok && u.Host == host {
		return false, false // a web socket of its own
	}
	for _, h := range e.hosts {
		h = strings.ToLower(strings.TrimSpace(h))
		name := strings.ToLower(u.Hostname())
		h = strings.TrimPrefix(strings.TrimPrefix(h, "https://"), "http://")
		if h == name || h == strings.ToLower(u.Host) || strings.HasPrefix(h, "*.") && strings.HasSuffix(name, h[1:]) {
			return true, true
		}
	}
	return true, false
}

// ask records a request of the page.
func (e *evidence) ask(id, address, kind string, asker fault) {
	if strings.HasPrefix(address, "data:") || strings.HasPrefix(address, "blob:") {
		return // the page has it, and it may be the whole game
	}
	address = bounded(address)
	e.mu.Lock()
	defer e.mu.Unlock()
	outside, allowed := e.foreign(address)
	if outside && !allowed {
		f := asker
		f.text = "asks for " + short(address) + ", which is outside of the project"
		e.note(&e.outside, f)
	}
	if len(e.asked) < maxAsked {
		e.asked[id] = request{address: address, asker: asker, kind: kind}
		if kind == "Script" || kind == "Fetch" || kind == "XHR" || kind == "Image" || kind == "Stylesheet" {
			e.under[id] = true
		}
	}
}

// loadsFiles reports whether a file of the project is still under way.
func (e *evidence) loadsFiles() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.under) > 0
}

// answered records that a request has come to its end.
func (e *evidence) answered(id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.under, id)
}

// missed records that a request had no file as its answer.
func (e *evidence) missed(id string, status int64, reason string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r, ok := e.asked[id]
	if !ok {
		return
	}
	outside, allowed := e.foreign(r.address)
	if outside {
		e.helpless = e.helpless || allowed
		return
	}
	name, inside := e.path(r.address)
	if u, err := url.Parse(r.address); err == nil && strings.HasSuffix(u.Path, "/") {
		name = strings.TrimSuffix(name, "index.html") // a folder without a page
	}
	if !inside || idle(name) || r.kind == "Document" && e.navigated == 0 {
		return
	}
	f := r.asker
	if status != 0 {
		f.text = fmt.Sprintf("%s is missing (status %d)", name, status)
	} else {
		f.text = fmt.Sprintf("%s could not be loaded (%s)", name, reason)
	}
	if f.file != "" && f.file != name {
		f.text += ", asked for by " + f.file
		if f.line > 0 {
			f.text += fmt.Sprintf(" line %d", f.line)
		}
	}
	// The place is that of the file to write.
	f.file, f.line, f.column = name, 0, 0
	if !slices.ContainsFunc(e.missing, func(o fault) bool { return o.file == name }) {
		e.note(&e.missing, f)
	}
}

// idle reports whether nothing is lost without a file: browsers ask for them, and
// games do not.
func idle(name string) bool {
	return name == "favicon.ico" || strings.HasSuffix(name, ".map") || strings.HasPrefix(name, ".well-known/") ||
		strings.HasPrefix(name, "apple-touch-icon") || strings.HasSuffix(name, "/favicon.ico")
}

// short bounds an address for a message.
func short(address string) string {
	if strings.HasPrefix(address, "data:") {
		return "data:…"
	}
	return clean(address, 120)
}

// clean returns text as valid UTF-8 without control characters, in one line of at
// most limit bytes.
func clean(text string, limit int) string {
	if len(text) > 4*limit {
		text = strings.Clone(text[:4*limit]) // the rest is not kept
	}
	text = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(text, "\uFFFD"), func(r rune) bool { return !verdict.Printable(r) || r == ' ' }), " ")
	if len(text) <= limit {
		return text
	}
	text = text[:limit-len("…")]
	return strings.ToValidUTF8(text, "") + "…"
}

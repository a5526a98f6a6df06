package server

import (
	"net/http"
	"slices"
	"strings"
)

// endpoint is one entry of the route table. Its name has underscores; the paths
// and the host label are derived from it. A name with slashes is a path and the
// endpoint's only address; {x} in it matches one segment, which
// Request.PathValue("x") returns.
type endpoint struct {
	name    string
	methods []string
	path    bool // has no host name of its own: its name is a path, as with slashes
	open    bool // needs no secret
	linked  bool // also answers to links, see link.go
	quiet   bool // polled frequently: logged at debug level only
	serve   func(x *exchange, r *http.Request)
}

// isPath reports whether the endpoint has no other address than its path.
func (e *endpoint) isPath() bool { return e.path || strings.Contains(e.name, "/") }

// endpoints returns the route table: a new endpoint is one line here.
func (s *Server) endpoints() []endpoint {
	get, post := []string{http.MethodGet, http.MethodHead}, []string{http.MethodPost}
	return []endpoint{
		{name: "health", methods: get, open: true, quiet: true, serve: s.health},
		{name: "livez", path: true, methods: get, open: true, quiet: true, serve: s.live},
		{name: "readyz", path: true, methods: get, open: true, quiet: true, serve: s.ready},
		{name: "metrics", path: true, methods: get, quiet: true, serve: s.metrics},
		{name: "generate_game", methods: post, serve: s.generateGame},
		{name: "prewarm_sandbox", methods: post, serve: s.prewarmSandbox},
		{name: "test_sandbox_io", methods: post, serve: s.check(s.testSandboxIO)},
		{name: "test_gvisor", methods: post, serve: s.check(s.testGVisor)},
		{name: "test_volume", methods: post, serve: s.check(s.testVolume)},
		{name: "test_stream", methods: post, serve: s.testStream},
		{name: "test_deep", methods: post, serve: s.testDeep},
		{name: "test_auth", methods: post, serve: s.testAuth},
		{name: "get_file", methods: get, serve: s.getFile},
		{name: "list_files", methods: get, serve: s.listFiles},
		{name: "thumbnail", path: true, methods: get, serve: s.thumbnail},
		{name: "check_game", path: true, methods: post, serve: s.checkGame},
		{name: "apply_files", methods: post, serve: s.applyFiles},
		{name: "get_skill_content", methods: post, serve: s.getSkillContent},
		{name: "preview_link", methods: post, serve: s.previewLink},
		{name: "jobs", path: true, methods: get, serve: s.listJobs},
		{name: "jobs/{id}", methods: get, serve: s.getJob},
		{name: "jobs/{id}/events", linked: true, methods: []string{http.MethodGet}, serve: s.jobEvents},
		{name: "jobs/{id}/cancel", methods: post, serve: s.cancelJob},
		{name: "jobs/{id}/link", methods: post, serve: s.jobLink},
		{name: "jobs/{id}/retry", methods: post, serve: s.retryJob},
		{name: "projects", path: true, methods: get, serve: s.listProjects},
		{name: "projects/{project_id}", methods: []string{http.MethodGet, http.MethodHead, http.MethodDelete}, serve: s.oneProject},
		{name: "users", path: true, methods: get, serve: s.listUsers},
		{name: "users/{user_id}", methods: []string{http.MethodGet, http.MethodHead, http.MethodDelete}, serve: s.oneUser},
		{name: "users/{user_id}/block", methods: post, serve: s.blockUser},
		{name: "users/{user_id}/unblock", methods: post, serve: s.unblockUser},
		{name: "moves", path: true, methods: get, serve: s.listMoves},
		{name: "moves/{subject}", methods: get, serve: s.getMove},
		{name: "moves/{subject}/hold", methods: post, serve: s.holdMove},
		{name: "moves/{subject}/archive", methods: []string{http.MethodGet, http.MethodPut}, serve: s.moveArchive},
		{name: "moves/{subject}/release", methods: post, serve: s.releaseMove},
		{name: "moves/{subject}/accept", methods: post, serve: s.acceptMove},
		{name: "moves/{subject}/undo", methods: post, serve: s.undoMove},
	}
}

// addressForm is how a client addressed an endpoint, for the log.
type addressForm string

const (
	formUnderscores addressForm = "underscores" // /test_sandbox_io
	formDashes      addressForm = "dashes"      // /test-sandbox-io
	formHost        addressForm = "host"        // acme--dreamcore-test-sandbox-io.modal.run, path /
	formPath        addressForm = "path"        // /jobs/ID/events
)

// routes finds endpoints by address.
type routes struct {
	paths    map[string]route
	suffixes []suffix // longest first, so that none hides a longer one
	patterns []pattern
}

type route struct {
	*endpoint
	form   addressForm
	values map[string]string // values of {x} in the name
}

// pattern holds the segments of a name with slashes.
type pattern struct {
	segments []string
	*endpoint
}

// suffix is the end of the first label of a host name, such as "-test-auth".
type suffix struct {
	text string
	route
}

func newRoutes(table []endpoint) routes {
	r := routes{paths: map[string]route{}}
	for i := range table {
		e := &table[i]
		if e.isPath() {
			r.patterns = append(r.patterns, pattern{strings.Split(e.name, "/"), e})
			continue
		}
		dashes := strings.ReplaceAll(e.name, "_", "-")
		r.paths["/"+dashes] = route{endpoint: e, form: formDashes}
		r.paths["/"+e.name] = route{endpoint: e, form: formUnderscores} // last, so that names without either log the documented form
		r.suffixes = append(r.suffixes, suffix{"-" + dashes, route{endpoint: e, form: formHost}})
	}
	slices.SortFunc(r.suffixes, func(a, b suffix) int { return len(b.text) - len(a.text) })
	return r
}

// find returns the endpoint for a request. The host name is used only if the
// path is empty.
func (r routes) find(host, path string) (route, bool) {
	if path != "/" && path != "" {
		if found, ok := r.paths[path]; ok {
			return found, true
		}
		return r.findPattern(path)
	}
	return r.findHost(host)
}

func (r routes) findPattern(path string) (route, bool) {
	segments := strings.Split(strings.TrimPrefix(path, "/"), "/")
	for _, p := range r.patterns {
		if values, ok := p.match(segments); ok {
			return route{endpoint: p.endpoint, form: formPath, values: values}, true
		}
	}
	return route{}, false
}

// match compares segments with those of the name; {x} matches any non-empty
// segment.
func (p pattern) match(segments []string) (values map[string]string, ok bool) {
	if len(segments) != len(p.segments) {
		return nil, false
	}
	values = map[string]string{}
	for i, want := range p.segments {
		name, variable := strings.CutPrefix(want, "{")
		switch {
		case variable && segments[i] != "":
			values[strings.TrimSuffix(name, "}")] = segments[i]
		case segments[i] != want:
			return nil, false
		}
	}
	return values, true
}

// findHost matches the first label of a host name with optional port. A base must
// precede the endpoint's name, as in BASE-test-auth.example.com.
func (r routes) findHost(host string) (route, bool) {
	label, _, _ := strings.Cut(host, ".")
	label, _, _ = strings.Cut(label, ":") // "[::1]:80" matches nothing
	label = strings.ToLower(label)
	for _, s := range r.suffixes {
		if len(label) > len(s.text) && strings.HasSuffix(label, s.text) {
			return s.route, true
		}
	}
	return route{}, false
}

// Address is the endpoint that a request is for.
type Address struct {
	Endpoint string            // its name, "" for an address that only a prompt endpoint can have
	Values   map[string]string // of {x} in the name
}

// Addresses finds endpoints for a program in front of servers, by the rules of the
// servers themselves.
type Addresses struct{ routes routes }

// NewAddresses returns the addresses of every server.
func NewAddresses() Addresses { return Addresses{newRoutes((&Server{}).endpoints())} }

// Find returns the address of a request.
func (a Addresses) Find(r *http.Request) Address {
	found, ok := a.routes.find(r.Host, r.URL.Path)
	if !ok {
		return Address{}
	}
	return Address{found.name, found.values}
}

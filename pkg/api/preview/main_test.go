package preview

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	alice = dreamcore.UserID("a11ce000-0000-4000-8000-000000000001")
	gameA = dreamcore.ProjectID("123e4567-e89b-42d3-a456-426614174000")
	gameB = dreamcore.ProjectID("123e4567-e89b-42d3-a456-426614174001")
)

// stage is a Service on a real listener, with real projects.
type stage struct {
	t       testing.TB
	service *Service
	volumes *volume.Store
	addr    string
	client  *http.Client // follows no redirect
}

// open starts a Service; its place has the listener's port.
func open(t testing.TB, place Place, more ...func(*Config)) *stage {
	t.Helper()
	v, err := volume.Open(filepath.Join(t.TempDir(), "volumes"), volume.Options{UID: os.Geteuid(), GID: os.Getegid()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Create(volume.Data); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, place.Port, _ = net.SplitHostPort(ln.Addr().String())
	cfg := Config{Place: place, Key: strings.Repeat("k", minKey), Projects: v}
	for _, m := range more {
		m(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, ln) }()
	st := &stage{t: t, service: s, volumes: v, addr: ln.Addr().String()}
	st.client = &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{DisableCompression: true, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, st.addr)
		}},
	}
	t.Cleanup(func() {
		st.client.CloseIdleConnections()
		cancel()
		if err := errors.Join(<-ended, v.Close()); err != nil {
			t.Error(err)
		}
	})
	return st
}

// write writes the files of a project and returns its directory.
func (st *stage) write(project dreamcore.ProjectID, files map[string]string) string {
	st.t.Helper()
	p, err := st.volumes.Project(alice, project)
	if err != nil {
		st.t.Fatal(err)
	}
	defer p.Close()
	for name, text := range files {
		full := filepath.Join(p.Path(), name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, []byte(text), 0o644)); err != nil {
			st.t.Fatal(err)
		}
	}
	return p.Path()
}

// link returns a parsed link to a project.
func (st *stage) link(project dreamcore.ProjectID) *url.URL {
	st.t.Helper()
	address, _, err := st.service.Link(alice, project, time.Hour)
	if err != nil {
		st.t.Fatal(err)
	}
	u, err := url.Parse(address)
	if err != nil {
		st.t.Fatal(err)
	}
	return u
}

// do sends a request to the stage, regardless of how its host would resolve.
func (st *stage) do(method, host, uri string, header ...string) *http.Response {
	st.t.Helper()
	req, err := http.NewRequest(method, "http://"+st.addr+"/", nil)
	if err != nil {
		st.t.Fatal(err)
	}
	req.Host, req.URL.Opaque = host, uri
	if strings.HasPrefix(uri, "//") { // net/http takes this for a host, unless there is one
		req.URL.Opaque = "//" + host + uri
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := st.client.Do(req)
	if err != nil {
		st.t.Fatal(err)
	}
	st.t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// enter follows a link and returns the host of the game and its cookie.
func (st *stage) enter(project dreamcore.ProjectID) (host, cookie string) {
	st.t.Helper()
	u := st.link(project)
	resp := st.do(http.MethodGet, u.Host, u.RequestURI())
	if resp.StatusCode != http.StatusSeeOther || len(resp.Cookies()) != 1 {
		st.t.Fatalf("%s %v", resp.Status, resp.Header)
	}
	return u.Host, resp.Cookies()[0].Name + "=" + resp.Cookies()[0].Value
}

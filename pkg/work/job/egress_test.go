package job

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/egress"
	"github.com/notef-neighbor/dreamcore/pkg/system/socket"
)

// Egress is open only during a job, and never if the operator allows no host.
func TestEgressIsOpenDuringAJob(t *testing.T) {
	policy, err := egress.ParsePolicy([]string{"api.example.com"}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var attempts []egress.Attempt
	proxy, err := egress.New(egress.Config{Policy: policy, Observe: func(a egress.Attempt) {
		mu.Lock()
		defer mu.Unlock()
		attempts = append(attempts, a)
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := proxy.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	ask := func(dir string) string {
		c, err := socket.Dial(t.Context(), filepath.Join(dir, egress.SocketName))
		if err != nil {
			return err.Error()
		}
		defer c.Close()
		_, _ = io.WriteString(c, "CONNECT evil.example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		return string(b)
	}
	var dir string
	r := newRig(t, options{egress: proxy, play: func(g guest) (int, error) {
		dir = g.sockets()
		if !slices.Contains(g.Env, "HTTPS_PROXY=http://127.0.0.1:3128") {
			return 0, errors.New("no proxy in the environment")
		}
		g.say(good)
		return 0, g.write("answer", ask(dir))
	}})
	id := r.submit(request(alice, "x"))
	if last, _ := r.ends(r.events(id)); last.Type != "done" {
		t.Fatalf("%+v\n%s", last, r.log)
	}
	if got := ask(dir); !strings.Contains(got, "no job") {
		t.Errorf("after the job: %q", got)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(attempts) != 2 || attempts[0].Job != id || attempts[1].Job != "" || attempts[0].Sandbox != r.made[0].ID() || attempts[1].Sandbox != r.made[0].ID() {
		t.Errorf("%+v", attempts)
	}
	if got := r.specs[0].Relay; got != (sandbox.Relay{Port: egress.Port, Socket: "/run/gw/" + egress.SocketName}) {
		t.Errorf("%+v", got)
	}

	none := newRig(t, options{play: func(g guest) (int, error) {
		g.say(good)
		if slices.ContainsFunc(g.Env, func(e string) bool { return strings.Contains(strings.ToUpper(e), "_PROXY=") }) {
			return 0, errors.New("a proxy in the environment")
		}
		return 0, g.write("index.html", "made")
	}})
	if last, _ := none.ends(none.run(request(alice, "x"))); last.Type != "done" || none.specs[0].Relay != (sandbox.Relay{}) {
		t.Errorf("%+v %+v\n%s", last, none.specs[0].Relay, none.log)
	}
}

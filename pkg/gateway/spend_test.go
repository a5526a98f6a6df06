package gateway

import (
	"context"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// noting is a Meter that keeps the last that it was told.
type noting struct {
	mu    sync.Mutex
	spent dreamcore.Spent
}

func (n *noting) Reserve(string, int64, int64) (func(dreamcore.Spent, bool) dreamcore.Nano, error) {
	return func(s dreamcore.Spent, _ bool) dreamcore.Nano {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.spent = s
		return 0
	}, nil
}

// renaming is an upstream with another name for the model.
type renaming struct{ Upstream }

func (r renaming) Send(ctx context.Context, call Call) (*Answer, error) {
	a, err := r.Upstream.Send(ctx, call)
	if a != nil {
		a.Model = "dear-1"
	}
	return a, err
}

func TestTheBooksAreToldWhichModelAnswered(t *testing.T) {
	for _, want := range []string{"", "dear-1"} {
		var n noting
		r := newRig(t, goodStream, func(c *Config) {
			if want != "" {
				c.Upstream = renaming{c.Upstream}
			}
		})
		gr := r.socket.Grant(GrantOptions{Meter: &n})
		if a := r.do(r.request(testBody, func(req *http.Request) { req.Header.Set("X-Api-Key", gr.Token()) })); a.status != 200 {
			t.Fatalf("%v", a)
		}
		gr.Revoke()
		if n.spent.Model != want || n.spent.Upstream != "anthropic" || n.spent.Tokens.Output != 42 {
			t.Errorf("%+v", n.spent)
		}
	}
}

// The model works on an answer in one piece all the time that it is waited for.
func TestAnAnswerInOnePieceThatTookTooLongIsPaidFor(t *testing.T) {
	r := newRig(t, func(_ http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body) // the server sees the client go only after it
		<-req.Context().Done()
	}, func(c *Config) { c.HeaderLimit, c.AnswerLimit = 200*time.Millisecond, 200*time.Millisecond })
	for body, paid := range map[string]bool{`{"model":"m-1","max_tokens":1000}`: true, testBody: false} {
		var n noting
		gr := r.socket.Grant(GrantOptions{Meter: &n})
		if a := r.do(r.request(body, func(req *http.Request) { req.Header.Set("X-Api-Key", gr.Token()) })); a.status != 504 {
			t.Fatalf("%v", a)
		}
		gr.Revoke()
		if got := n.spent; paid != (got.Tokens.Output >= 20 && got.Tokens.Input > 0 && got.Estimated) || !paid && got.Tokens != (dreamcore.Tokens{}) {
			t.Errorf("%s: %+v", body, got)
		}
	}
}

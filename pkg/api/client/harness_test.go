package client

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"go.uber.org/goleak"

	"github.com/notef-neighbor/dreamcore/pkg/api/client/clienttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testSecret = "4f9d1c2b7a6e5d3c8b9a0f1e2d3c4b5a"

// serve starts a server with handler and returns a client of it.
func serve(t *testing.T, handler http.HandlerFunc, change ...func(*Options)) *Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return connect(t, server.URL, change...)
}

func connect(t *testing.T, address string, change ...func(*Options)) *Client {
	t.Helper()
	o := Options{Secret: testSecret}
	for _, f := range change {
		f(&o)
	}
	c, err := New(address, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// overPipe returns a client of handler for a synctest bubble.
func overPipe(t *testing.T, handler http.HandlerFunc) *Client {
	return connect(t, "http://server", func(o *Options) { o.Transport = clienttest.Transport{Handler: handler} })
}

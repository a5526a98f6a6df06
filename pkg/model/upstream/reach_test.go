package upstream

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestAnUpstreamThatAnswersIsReached(t *testing.T) {
	credentials := make(chan string, 10)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		credentials <- r.Header.Get("X-Api-Key") + r.Header.Get("Authorization")
		w.WriteHeader(http.StatusNotFound)
	}))
	t.Cleanup(srv.Close)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	for _, test := range []struct {
		addresses []string
		reached   bool
	}{{[]string{srv.URL}, true}, {[]string{gone.URL}, false}, {[]string{gone.URL, srv.URL}, true}} {
		var entries []Entry
		for i, a := range test.addresses {
			entries = append(entries, Entry{Name: "a" + string(rune('0'+i)), Kind: Anthropic, BaseURL: a, APIKey: "key"})
		}
		l, err := New(entries, Options{Secret: func(string) (map[string]string, error) { return map[string]string{"KEY": "sk-secret"}, nil }})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Reach(t.Context()); (err == nil) != test.reached {
			t.Errorf("%v: %v", test.addresses, err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
	for len(credentials) > 0 {
		if c := <-credentials; c != "" {
			t.Error("a credential was sent")
		}
	}
}

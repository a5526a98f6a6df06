package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// followed serves one job that has ended.
func followed(t *testing.T, user dreamcore.UserID) (j dreamcore.Job, address string) {
	t.Helper()
	j = dreamcore.Job{
		ID: "aaaa1111-0000-4000-8000-000000000001", User: user, Project: "b0b00000-0000-4000-8000-000000000002",
		State: dreamcore.JobSucceeded,
	}
	raw, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /jobs/"+j.ID, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(raw)
	})
	mux.HandleFunc("GET /jobs/"+j.ID+"/events", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(w, "id: 1\ndata: %s\n\n", dreamcore.DoneEvent())
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return j, s.URL
}

// A hint must not make a game of the followed job's project for another user.
func TestTheHintAfterAFollowedJobNamesItsOwner(t *testing.T) {
	const alice = "a11ce000-0000-4000-8000-000000000001"
	for _, tt := range []struct {
		owner string
		flags []string
		named bool
	}{
		{alice, nil, true},
		{alice, []string{"--user", localUser}, true},
		{localUser, []string{"--user", alice}, true},
		{localUser, nil, false},
	} {
		c := newCLI(t)
		key := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(key, []byte(strings.Repeat("s", 40)), 0o600); err != nil {
			t.Fatal(err)
		}
		j, address := followed(t, dreamcore.UserID(tt.owner))
		out, errOut, err := c.run(append([]string{"generate", "--follow", j.ID, "--endpoint", address, "--secret-file", key}, tt.flags...)...)
		if err != nil {
			t.Fatalf("%v\n%s%s", err, out, errOut)
		}
		_, hint, _ := strings.Cut(out, "run: dreamcore generate")
		hint, _, _ = strings.Cut(hint, "\n")
		want := 0
		if tt.named {
			want = 1
		}
		if !strings.Contains(hint, "--project "+string(j.Project)) || strings.Count(hint, "--user ") != want || strings.Count(hint, "--user "+tt.owner) != want {
			t.Errorf("job of %s, %q: the hint is %q", tt.owner, tt.flags, hint)
		}
	}
}

package server

import (
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// FuzzJobFilter parses the query of a list of jobs: it is refused with a field, or
// selects what it names.
func FuzzJobFilter(f *testing.F) {
	for _, query := range []string{"", "limit=5", "state=failed&user_id=" + user, "since=2026-11-01&until=2026-11-02T00:00:00Z", "cursor=AAAA", "%zz", "limit=1&limit=2"} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		filter, err := jobFilter(query)
		if err != nil && dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
			t.Errorf("%q: %v", query, err)
		}
		if err == nil && (filter.Limit < 0 || filter.Limit > dreamcore.MaxPage) {
			t.Errorf("%q: %+v", query, filter)
		}
	})
}

// FuzzLinkToken admits no token but the one that was made.
func FuzzLinkToken(f *testing.F) {
	s := &Server{cfg: Config{Secrets: func() []string { return []string{secret} }, LinkKey: linkKey}}
	now := time.Unix(1_800_000_000, 0)
	made := s.linkToken(noJob, now.Add(time.Hour))
	for _, token := range []string{made, "", "x", made[1:], made + "=", made[:len(made)-1] + "\n"} {
		f.Add(noJob, token)
		f.Add(user, token)
	}
	f.Fuzz(func(t *testing.T, job, token string) {
		id, err := dreamcore.ParseJobID(job)
		if _, got := s.admitsLink(job, token, now); got != (err == nil && id == noJob && token == made) {
			t.Errorf("job %q, token %q: %v", job, token, got)
		}
	})
}

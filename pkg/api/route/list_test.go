package route

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/record"
)

// listCell is a cell with lists, which it pages as the service does.
func listCell(t testing.TB, name string, jobs []dreamcore.Job, users []string) *fakeCell {
	slices.SortFunc(jobs, func(a, b dreamcore.Job) int {
		return -bytes.Compare(record.PositionOf(a).Order(), record.PositionOf(b).Order())
	})
	slices.Sort(users)
	return startCell(t, name, func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		limit, err := strconv.Atoi(q.Get("limit"))
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		object := map[string]any{}
		if r.URL.Path == "/users" {
			rest := users
			if c := q.Get("cursor"); c != "" {
				at, found := slices.BinarySearch(users, c)
				if found {
					at++
				}
				rest = users[at:]
			}
			if len(rest) > limit {
				rest = rest[:limit]
				object["next"] = rest[limit-1]
			}
			all := []map[string]any{}
			for _, u := range rest {
				all = append(all, map[string]any{"user_id": u, "from": name})
			}
			object["users"] = all
		} else {
			rest := jobs
			if c := q.Get("cursor"); c != "" {
				p, err := record.ParseCursor(c)
				if err != nil {
					w.WriteHeader(http.StatusBadRequest)
					_, _ = io.WriteString(w, `{"error":"Invalid cursor"}`)
					return
				}
				rest = slices.DeleteFunc(slices.Clone(rest), func(j dreamcore.Job) bool { return !record.PositionOf(j).Before(p) })
			}
			if len(rest) > limit {
				rest = rest[:limit]
				object["next"] = record.PositionOf(rest[limit-1]).Cursor()
			}
			object["jobs"] = append([]dreamcore.Job{}, rest...)
		}
		_ = json.NewEncoder(w).Encode(object)
	})
}

func TestMergedListsAreExact(t *testing.T) {
	var jobs [2][]dreamcore.Job
	var users [2][]string
	var allJobs, allUsers []string
	now := time.Now()
	var sorted []dreamcore.Job
	for i := range 60 {
		user := dreamcore.NewUserID()
		cell := 0
		if user.Slot() >= 800 {
			cell = 1
		}
		// Some are created at the same moment.
		j := dreamcore.Job{ID: dreamcore.NewJobID(user), User: user, Created: now.Add(time.Duration(i/3) * time.Nanosecond)}
		jobs[cell], users[cell] = append(jobs[cell], j), append(users[cell], string(user))
		sorted, allUsers = append(sorted, j), append(allUsers, string(user))
		if i%7 == 0 { // an old copy of a user that was moved
			jobs[1-cell], users[1-cell] = append(jobs[1-cell], j), append(users[1-cell], string(user))
		}
	}
	slices.Sort(allUsers)
	slices.SortFunc(sorted, func(a, b dreamcore.Job) int {
		return -bytes.Compare(record.PositionOf(a).Order(), record.PositionOf(b).Order())
	})
	for _, j := range sorted {
		allJobs = append(allJobs, j.ID)
	}
	h := startRouter(t, nil, listCell(t, "a", jobs[0], users[0]), listCell(t, "b", jobs[1], users[1]))
	for _, limit := range []int{1, 2, 7, 59, 60, 61} {
		for list, want := range map[string][]string{"jobs": allJobs, "users": allUsers} {
			var got []string
			for q := (url.Values{"limit": {strconv.Itoa(limit)}}); ; {
				resp, body := h.do("GET", "/"+list+"?"+q.Encode(), "")
				var page struct {
					Jobs  []struct{ ID string }
					Users []struct {
						ID   string `json:"user_id"`
						From string
					}
					Next *string
				}
				if err := json.Unmarshal([]byte(body), &page); err != nil || resp.StatusCode != 200 {
					t.Fatalf("%s %s", resp.Status, body)
				}
				for _, j := range page.Jobs {
					got = append(got, j.ID)
				}
				for _, u := range page.Users {
					got = append(got, u.ID)
					if own := mapOf(t, "").User(dreamcore.UserID(u.ID)).Cell; u.From != own {
						t.Errorf("%s is shown as cell %s has it, and lives on %s", u.ID, u.From, own)
					}
				}
				if len(page.Jobs)+len(page.Users) > limit {
					t.Errorf("%d entries of %d", len(page.Jobs)+len(page.Users), limit)
				}
				if page.Next == nil {
					break
				}
				q.Set("cursor", *page.Next)
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s by %d: %d entries, want %d", list, limit, len(got), len(want))
			}
		}
	}
	if resp, body := h.do("GET", "/jobs?cursor=%21", ""); resp.StatusCode != 400 || body != `{"error":"Invalid cursor"}` {
		t.Errorf("a forged cursor: %s %s", resp.Status, body)
	}
	if resp, body := h.do("GET", "/jobs", "", "X-Modal-Secret", "wrong"); resp.StatusCode != 401 || body != `{"error":"Unauthorized"}` {
		t.Errorf("a stranger: %s %s", resp.Status, body)
	}
}

func TestAListThatLacksACellIsAnError(t *testing.T) {
	good := listCell(t, "a", nil, nil)
	for name, answer := range map[string]http.HandlerFunc{
		"an error":    func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
		"no JSON":     func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") },
		"no list":     func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"jobs":7}`) },
		"a bad entry": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"jobs":[{"id":"x"}]}`) },
		"too much":    func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, maxListPage+1)) },
		"a cut answer": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "9")
			_, _ = io.WriteString(w, `{`)
		},
		"too many entries": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"jobs":[%s]}`, strings.TrimSuffix(strings.Repeat(jobText(0)+",", 51), ","))
		},
		"a wrong order": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"jobs":[%s,%s]}`, jobText(1), jobText(2))
		},
		"no connection": nil,
	} {
		b := startCell(t, "b", answer)
		h := startRouter(t, func(c *Config) { c.Hold = 300 * time.Millisecond }, good, b)
		if answer == nil {
			b.Close()
		}
		resp, body := h.do("GET", "/jobs", "")
		if resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, `"code":"CELL_AWAY"`) || !strings.Contains(body, "cell b") || resp.Header.Get("Retry-After") == "" {
			t.Errorf("%s: %s %s", name, resp.Status, body)
		}
	}
}

func jobText(second int) string {
	return fmt.Sprintf(`{"id":%q,"user_id":%q,"created":"2026-11-01T00:00:%02dZ"}`, dreamcore.NewJobID(alice), alice, second)
}

// The pages of cells may be shorter than the limit, also when others follow.
func TestMergingKeepsTheFirstEntries(t *testing.T) {
	for range 500 {
		limit := 1 + rand.IntN(6)
		var whole page
		var all []string
		for range 1 + rand.IntN(5) {
			var p page
			most := 1 + rand.IntN(limit)
			for i := range 26 {
				name := string(rune('a' + i))
				if rand.IntN(4) > 0 {
					continue
				}
				all = append(all, name)
				if len(p.entries) < most {
					p.entries = append(p.entries, entry{order: []byte(name), cursor: name, raw: json.RawMessage(`"` + name + `"`)})
				} else {
					p.end = p.entries[most-1].order
				}
			}
			whole = whole.merge(p, limit)
		}
		slices.Sort(all)
		all = slices.Compact(all)
		var got []string
		for _, e := range whole.entries {
			got = append(got, e.cursor)
		}
		if len(got) > limit || !slices.Equal(got, all[:len(got)]) || whole.end == nil != (len(got) == len(all)) && len(got) != len(all) {
			t.Fatalf("%v, end %q, of %v", got, whole.end, all)
		}
		if whole.end != nil && (len(got) == 0 || string(whole.end) < got[len(got)-1]) {
			t.Fatalf("%v, end %q", got, whole.end)
		}
	}
}

// FuzzPage decodes what a cell could send, and merges it.
func FuzzPage(f *testing.F) {
	f.Add([]byte(`{"jobs":[`+jobText(2)+`,`+jobText(1)+`],"next":"x"}`), "jobs", "limit=2")
	f.Add([]byte(`{"users":[{"user_id":"`+alice+`"}]}`), "users", "cursor="+bob)
	table := NewTable()
	table.SetMap(mapOf(f, ""))
	rt := &Router{cfg: Config{Table: table}}
	f.Fuzz(func(t *testing.T, raw []byte, endpoint, query string) {
		l, ok := listOf(&http.Request{Method: "GET", URL: &url.URL{RawQuery: query}}, endpoint)
		if !ok {
			return
		}
		if l.limit < 1 || l.limit > dreamcore.MaxPage {
			t.Fatalf("limit %d", l.limit)
		}
		p, err := rt.decodePage(raw, l, "a")
		if err != nil {
			return
		}
		merged := page{}.merge(p, l.limit)
		if len(merged.entries) > l.limit || len(merged.entries) > len(p.entries) || !slices.IsSortedFunc(merged.entries, byOrder) {
			t.Errorf("%d entries of %d", len(merged.entries), len(p.entries))
		}
		if _, err := json.Marshal(merged.object(l.key)); err != nil {
			t.Error(err)
		}
		for _, e := range merged.entries {
			if l.key == "jobs" {
				if _, err := record.ParseCursor(e.cursor); err != nil && !bytes.Contains(raw, []byte("created")) {
					t.Errorf("the cursor %q: %v", e.cursor, err)
				}
			}
		}
	})
}

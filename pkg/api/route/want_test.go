package route

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/api/server"
	"github.com/notef-neighbor/dreamcore/pkg/cluster/slots"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

const (
	alice = "a11ce000-0000-4000-8000-000000000001" // of slot 910
	bob   = "ffffffff-ffff-4fff-bfff-ffffffffffff" // of slot 710
)

func TestTheUserOfARequest(t *testing.T) {
	addresses := server.NewAddresses()
	job := dreamcore.NewJobID(bob)
	upper := strings.ToUpper(alice)
	ofAlice, ofAny := want{kind: cellOf, user: alice, slot: -1}, want{}
	changing := func(w want) want { w.change = true; return w }
	for _, tt := range []struct {
		method, target, body string
		want                 want
	}{
		{"GET", "/get_file?user_id=" + alice + "&path=x", "", ofAlice},
		{"GET", "/get-file?user_id=" + upper, "", ofAlice},
		{"GET", "/get_file?user_id=" + alice + "&user_id=" + alice, "", ofAlice},
		{"GET", "/get_file?user_id=x", "", ofAny},
		{"GET", "/get_file?user_id=%zz" + alice, "", ofAny},
		{"GET", "/jobs?user_id=" + alice, "", ofAlice},
		{"POST", "/generate_game", `{"user_id":"` + alice + `"}`, changing(ofAlice)},
		{"POST", "/generate_game", `{"user_id":"` + bob + `","user_id":"` + upper + `"}`, changing(ofAlice)}, // the last one, as in the cells
		{"POST", "/generate_game", `{"USER_ID":"` + bob + `","user_id":"` + alice + `"}`, changing(ofAlice)},
		{"POST", "/generate_game", `{"a":{"user_id":"` + bob + `"},"user_id":"` + alice + `"}`, changing(ofAlice)},
		{"POST", "/generate_game", "\xef\xbb\xbf" + `{"user_id":"\u0061` + alice[1:] + `"}`, changing(ofAlice)},
		{"POST", "/generate_game", `{"user_id":"` + alice + `"} {}`, ofAny},
		{"POST", "/generate_game", `["` + alice + `"]`, ofAny},
		{"POST", "/generate_game", `{"user_id":"{` + alice + `}"}`, ofAny},
		{"POST", "/generate_game", `{"user_id":5}`, ofAny},
		{"POST", "/v2_generate_code", `{"user_id":"` + alice + `"}`, changing(ofAlice)},
		{"POST", "/generate_game?user_id=" + alice, `{"user_id":"` + upper + `"}`, changing(ofAlice)},
		{"POST", "/test_volume", "", ofAny},
		{"GET", "/health", "", ofAny},
		{"GET", "/nothing", "", ofAny},
		{"GET", "/users/" + upper, "", ofAlice},
		{"DELETE", "/users/" + alice, "", changing(ofAlice)},
		{"POST", "/users/" + alice + "/block", `{"reason":"x","user_id":"` + bob + `"}`, changing(ofAlice)}, // the path counts
		{"GET", "/users/%61" + alice[1:], "", ofAlice},
		{"GET", "//users/" + alice, "", ofAny}, // no address of the cells
		{"GET", "/x/../users/" + alice, "", ofAny},
		{"GET", "/jobs/" + job, "", want{kind: oneOfAll, slot: 710}},
		{"OPTIONS", "/jobs/" + job + "/events", "", want{kind: oneOfAll, slot: 710}},
		{"GET", "/jobs/" + job + "/events?user_id=" + alice, "", want{kind: oneOfAll, slot: 710}},
		{"POST", "/jobs/" + job + "/cancel", `{"user_id":"` + alice + `"}`, want{kind: oneOfAll, slot: 710}},
		{"POST", "/jobs/" + job + "/retry", "", want{kind: oneOfAll, slot: 710, change: true}},
		{"GET", "/jobs/x", "", ofAny},
		{"GET", "/projects/" + alice, "", want{kind: oneOfAll, slot: -1}},
		{"DELETE", "/projects/" + alice, "", ofAny},
		{"DELETE", "/projects/" + bob + "?user_id=" + alice, "", changing(ofAlice)},
	} {
		r := httptest.NewRequest(tt.method, tt.target, nil)
		got, err := wantOf(r, addresses.Find(r), []byte(tt.body))
		if err != nil || got != tt.want {
			t.Errorf("%s %s %s: %+v, %v, want %+v", tt.method, tt.target, tt.body, got, err, tt.want)
		}
	}
}

func TestTwoUsersAreRefused(t *testing.T) {
	addresses := server.NewAddresses()
	for _, tt := range [][2]string{
		{"/get_file?user_id=" + alice + "&user_id=" + bob, ""},
		{"/get_file?user_id=" + alice + "&user_id=", ""},
		{"/get_file?user_id=&user_id=" + alice, ""},
		{"/get_file?user_id=" + alice + "&user_id=" + strings.ToUpper(alice), ""}, // the cells refuse it, too
		{"/generate_game?user_id=" + alice, `{"user_id":"` + bob + `"}`},
		{"/generate_game?user_id=x", `{"user_id":"` + bob + `"}`},
		{"/generate_game?user_id=", `{"user_id":"` + bob + `"}`},
		{"/generate_game?user_id=" + alice, `{"user_id":"x"}`},
	} {
		r := httptest.NewRequest(http.MethodPost, tt[0], nil)
		if w, err := wantOf(r, addresses.Find(r), []byte(tt[1])); dreamcore.CodeOf(err) != dreamcore.CodeInvalid || w != (want{}) {
			t.Errorf("%s %s: %+v, %v", tt[0], tt[1], w, err)
		}
	}
}

// BenchmarkChoose finds the cell among 1,000.
// A job whose cell restarts is waited for: the cell from which its user was moved may
// keep an old copy.
func TestACopyInAnotherCellIsNotAsked(t *testing.T) {
	m, err := slots.Even([]string{"cell-0", "cell-1"})
	if err != nil {
		t.Fatal(err)
	}
	const slot = 7
	right := m.Slot(slot)[0].Cell
	other := map[string]string{"cell-0": "cell-1", "cell-1": "cell-0"}[right]
	table := NewTable()
	table.SetMap(m)
	table.SetCells([]Cell{{"cell-0", "a:1", true}, {"cell-1", "a:2", true}})
	w := want{kind: oneOfAll, slot: slot}
	table.reached(right, table.choose(w, nil).cell.Address, false)
	if c := table.choose(w, nil); c.cell.Name != right || c.fault != faultAway {
		t.Errorf("%+v, want to wait for %s", c, right)
	}
	if c := table.choose(w, []string{right}); c.cell.Name != other || c.fault != "" {
		t.Errorf("%+v, want %s for what the right one does not have", c, other)
	}
}

func BenchmarkChoose(b *testing.B) {
	var names []string
	var cells []Cell
	for i := range 1000 {
		names = append(names, fmt.Sprintf("cell-%d", i))
		cells = append(cells, Cell{names[i], fmt.Sprintf("10.0.%d.%d:8080", i/256, i%256), true})
	}
	m, err := slots.Even(names)
	if err != nil {
		b.Fatal(err)
	}
	table := NewTable()
	table.SetMap(m)
	table.SetCells(cells)
	for name, w := range map[string]want{"user": {kind: cellOf, user: alice}, "job": {kind: oneOfAll, slot: 7}, "any": {}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if c := table.choose(w, nil); c.fault != "" {
					b.Fatal(c.fault)
				}
			}
		})
	}
}

// FuzzUser compares the user whose cell the router asks with the one that a cell would
// take from the same request.
func FuzzUser(f *testing.F) {
	f.Add("POST", "/generate_game", "", `{"user_id":"`+alice+`"}`)
	f.Add("GET", "/get_file", "user_id="+alice+"&path=a", "")
	f.Add("POST", "/generate_game", "user_id="+bob, `{"user_id":"`+alice+`","user_id":"`+bob+`"}`)
	f.Add("DELETE", "/users/"+alice, "", "")
	f.Add("GET", "/jobs/"+bob+"/events", "after=1", "")
	addresses := server.NewAddresses()
	f.Fuzz(func(t *testing.T, method, path, query, body string) {
		r := &http.Request{Method: method, URL: &url.URL{Path: path, RawQuery: query}, Host: "h"}
		at := addresses.Find(r)
		w, err := wantOf(r, at, []byte(body))
		if err != nil {
			if dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
				t.Errorf("%v", err)
			}
			return
		}
		if w.kind != cellOf {
			return
		}
		if id, err := dreamcore.ParseUserID(string(w.user)); err != nil || id != w.user {
			t.Errorf("%q is no user", w.user)
		}
		// Wherever a cell looks, it finds this user or none.
		found := append(r.URL.Query()["user_id"], server.UserOf([]byte(body)))
		if v, ok := at.Values["user_id"]; ok {
			found = []string{v}
		}
		for _, text := range found {
			if id, err := dreamcore.ParseUserID(text); err == nil && id != w.user {
				t.Errorf("the router takes %s, a cell could take %s", w.user, id)
			}
		}
	})
}

package gate

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
)

// standard returns the gates without the deep ones.
func standard(t testing.TB) []Gate {
	t.Helper()
	gates, err := Select(nil, true, false)
	if err != nil || len(gates) != 6 {
		t.Fatalf("%d gates, %v", len(gates), err)
	}
	return gates
}

// seen is the evidence of an honest server; %N stands for the nonce.
var seen = map[string][]string{
	"key-leak":    {"bytes searched", "123456", "planted text", "2", "the API key", "0", "the internal secret", "0", "the identity", "0", "the token of another job", "0"},
	"other-user":  {"the owner reads it", "%N", "users that are seen", "none but itself", "a", "no", "b", "no", "c", "no", "d", "no", "e", "no", "f", "no"},
	"metadata":    {"loopback", "opened", "tcp=169.254.169.254:80", "unreachable", "a", "x", "b", "x", "c", "x", "d", "x"},
	"dns":         {"name=localhost", "::1 localhost", "name=example.com", "not found", "name=metadata.google.internal", "not found", "loopback", "opened", "udp=8.8.8.8:53", "x", "a", "x", "b", "x", "c", "x", "d", "x"},
	"raw-sockets": {"loopback", "opened", "packet", "no", "icmp", "no", "raw", "no", "vsock", "no"},
	"fork-bomb":   {"processes without an end", "sh: 1: Cannot fork", "the sandbox of another user meanwhile", "works", "the same sandbox afterwards", "works, 3 processes"},
	"disk-fill":   {"bound", "1000", "writing twice the bound", "No space left on device", "bytes written", "900", "another user writes meanwhile", "works", "bytes less on the machine's disk", "900"},
	"symlink":     {"plain.txt", "%N", "a", "refused", "b", "refused", "c", "refused", "d", "refused", "e", "refused", "f", "refused"},
}

// deepServer answers test_deep with the honest evidence and changes to it, which
// are pairs of an attempt and its result; "" omits the attempt.
func deepServer(changes ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var q struct{ Check, Nonce string }
		_ = json.NewDecoder(r.Body).Decode(&q)
		var list []map[string]any
		pairs := append(append([]string{}, seen[q.Check]...), "left behind", "nothing")
		for i := 0; i < len(pairs); i += 2 {
			tried, is := pairs[i], pairs[i+1]
			for j := 0; j < len(changes); j += 2 {
				if changes[j] == tried {
					is = changes[j+1]
				}
			}
			if is != "" {
				list = append(list, map[string]any{"tried": tried, "seen": strings.ReplaceAll(is, "%N", q.Nonce), "seconds": 0.5})
			}
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"success": true, "check": q.Check, "evidence": list, "seconds": 1})
	}
}

// runDeep runs one deep gate against a handler of test_deep.
func runDeep(t *testing.T, name string, answer http.HandlerFunc, more ...func(*Config)) Result {
	t.Helper()
	gates, err := Select([]string{name}, false, false)
	if err != nil {
		t.Fatal(err)
	}
	c := Config{Client: overPipe(t, testSecret, server{lies: map[string]http.HandlerFunc{"/test_deep": answer}}), Gates: gates}
	for _, m := range more {
		m(&c)
	}
	return Run(t.Context(), c).Gates[0]
}

func TestDeepGatesRelyOnEvidenceOnly(t *testing.T) {
	for name := range seen {
		synctest.Test(t, func(t *testing.T) {
			r := runDeep(t, name, deepServer())
			if r.Status != Pass || len(r.Evidence) != len(seen[name])/2+1 {
				t.Errorf("%s: an honest server: %+v", name, r)
			}
		})
	}
	for _, tt := range []struct {
		gate   string
		answer http.HandlerFunc
		detail string
	}{
		{"key-leak", deepServer("the API key", "1"), "the API key was seen"},
		{"key-leak", deepServer("the internal secret", ""), "no search for the internal secret"},
		{"key-leak", deepServer("the internal secret", "not set"), "the internal secret was seen"},
		{"key-leak", deepServer("the token of another job", "3"), "another job was seen"},
		{"key-leak", deepServer("planted text", "0"), "did not find the planted text"},
		{"key-leak", deepServer("bytes searched", "12"), "too little was searched"},
		{"other-user", deepServer("c", "a%N"), "the planted text is seen c"},
		{"other-user", deepServer("the owner reads it", "something else"), "missing where it must be seen"},
		{"other-user", deepServer("users that are seen", "b0b"), "other users are seen"},
		{"other-user", deepServer("a", ""), "only 6 attempts"},
		{"metadata", deepServer("tcp=169.254.169.254:80", "opened"), `169.254.169.254:80: "opened"`},
		{"metadata", deepServer("loopback", "refused"), "a socket within the sandbox does not work"},
		{"metadata", deepServer("tcp=169.254.169.254:80", ""), "only 4 attempts"},
		{"dns", deepServer("name=example.com", "93.184.216.34 example.com"), "93.184.216.34"},
		{"dns", deepServer("name=localhost", "not found"), "localhost has no address"},
		{"dns", deepServer("udp=8.8.8.8:53", "opened"), `"opened"`},
		{"raw-sockets", deepServer("vsock", "opened"), `vsock: "opened"`},
		{"fork-bomb", deepServer("processes without an end", "fine"), "no limit was met"},
		{"fork-bomb", deepServer("the same sandbox afterwards", "dead"), `the sandbox afterwards: "dead"`},
		{"fork-bomb", deepServer("the same sandbox afterwards", ""), "the sandbox afterwards"},
		{"fork-bomb", deepServer("the sandbox of another user meanwhile", "dead"), "another user"},
		{"fork-bomb", deepServer("left behind", "7 processes"), `left behind: "7 processes"`},
		{"disk-fill", deepServer("bytes written", "1001"), "over the bound"},
		{"disk-fill", deepServer("writing twice the bound", "fine"), "no limit was met"},
		{"disk-fill", deepServer("another user writes meanwhile", "no"), "another user cannot write"},
		{"disk-fill", deepServer("bound", "none"), "bounded only by the machine"},
		{"symlink", deepServer("b", "%N"), "the planted text is seen b"},
		{"symlink", reply(404, `{"error":"Not found"}`), "not offered"},
		{"symlink", reply(200, `{"success":true}`), `"check" is missing`},
		{"symlink", reply(200, `{"success":false,"error":"no disk"}`), "the server reports: no disk"},
		{"symlink", reply(200, `{"success":true,"check":"dns","evidence":[]}`), `for the check "dns"`},
		{"symlink", hang, "not finished within"},
	} {
		synctest.Test(t, func(t *testing.T) {
			if r := runDeep(t, tt.gate, tt.answer); r.Status != Fail || !strings.Contains(r.Detail, tt.detail) {
				t.Errorf("%s: %s %q, want %q", tt.gate, r.Status, r.Detail, tt.detail)
			}
		})
	}
}

// The service replaces a sandbox that cannot be cleaned.
func TestAForkBombMayEndItsOwnSandbox(t *testing.T) {
	e := evidence{list: []client.Evidence{
		{Tried: "processes without an end", Seen: "sh: 1: Cannot fork"},
		{Tried: "the sandbox of another user meanwhile", Seen: "works"},
		{Tried: "a sandbox in its place", Seen: "works, 3 processes"},
	}}
	if v := judgeForkBomb(Config{}, e); v.status != Pass || !strings.Contains(v.detail, "was replaced") {
		t.Errorf("%+v", v)
	}
	e.list[2].Seen = "dead"
	if v := judgeForkBomb(Config{}, e); v.status != Fail {
		t.Errorf("%+v", v)
	}
}

func TestADeepGateFailsIfHealthDoesNotAnswerMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := server{lies: map[string]http.HandlerFunc{"/test_deep": func(w http.ResponseWriter, r *http.Request) {
			wait(r, 8e9)
			deepServer()(w, r)
		}, "/health": hang}}
		gates, _ := Select([]string{"fork-bomb"}, false, false)
		r := Run(t.Context(), Config{Client: overPipe(t, testSecret, s), Gates: gates}).Gates[0]
		if r.Status != Fail || !strings.Contains(r.Detail, "/health did not answer") {
			t.Errorf("%+v", r)
		}
	})
}

func TestDeepGatesAreSelectedExplicitly(t *testing.T) {
	if gates, err := Select(nil, true, true); err != nil || len(gates) != 14 {
		t.Errorf("%d gates, %v", len(gates), err)
	}
	if gates, err := Select([]string{"9", "key-leak"}, false, false); err != nil || len(gates) != 2 || gates[0].Name != "key-leak" {
		t.Errorf("%v, %v", gates, err)
	}
}

func TestUnlimitedDiskNeedsExplicitPermission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := runDeep(t, "disk-fill", deepServer("bound", "none"), func(c *Config) { c.AllowUnlimited = true })
		if r.Status != Relaxed {
			t.Errorf("%+v", r)
		}
	})
}

func TestEvidenceIsInBothReports(t *testing.T) {
	r := Report{Gates: []Result{{Number: 9, Name: "dns", Status: Pass, Evidence: []client.Evidence{{Tried: "udp=8.8.8.8:53", Seen: "network is unreachable", Seconds: 0.25}}}}}
	for name, write := range map[string]func(*bytes.Buffer) error{
		"json":  func(b *bytes.Buffer) error { return r.WriteJSON(b) },
		"junit": func(b *bytes.Buffer) error { return r.WriteJUnit(b) },
	} {
		var b bytes.Buffer
		if err := write(&b); err != nil || !strings.Contains(b.String(), "udp=8.8.8.8:53") || !strings.Contains(b.String(), "network is unreachable") {
			t.Errorf("%s: %v %s", name, err, b.String())
		}
	}
}

func FuzzDeepEvidence(f *testing.F) {
	f.Add("loopback", "opened", "tcp=169.254.169.254:80", "no")
	f.Fuzz(func(t *testing.T, a, b, c, d string) {
		e := evidence{[]client.Evidence{{Tried: a, Seen: b}, {Tried: c, Seen: d}}, "0123456789abcdef"}
		for _, judged := range []judge{judgeKeyLeak, judgeOtherUser, judgeDNS, judgeForkBomb, judgeDiskFill, judgeSymlink, judgeSockets(4, "packet"), judgeSockets(5, "169.254.169.254")} {
			if v := judged(Config{}, e); v.status.OK() {
				t.Errorf("two attempts suffice for %q", v.detail)
			}
		}
	})
}

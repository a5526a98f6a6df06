package server

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func itoa(n int) string { return strconv.Itoa(n) }

// quoted encodes s as a JSON string.
func quoted(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// body builds a request body from raw JSON values; "" omits a member.
func body(user, projectID, prompt string) string {
	var members []string
	for _, m := range [][2]string{{"user_id", user}, {"project_id", projectID}, {"prompt", prompt}} {
		if m[1] != "" {
			members = append(members, quoted(m[0])+":"+m[1])
		}
	}
	return "{" + strings.Join(members, ",") + "}"
}

const (
	badJSON    = "Invalid JSON"
	badUser    = "Invalid user_id: must be UUID format"
	badProject = "Invalid project_id: must be UUID format"
	noPrompt   = "prompt is required"
	badMessage = "Invalid commit_message: must be text without NUL, of at most 4096 bytes"
)

func TestInvalidRequestsAreRefusedWithTheContractsTexts(t *testing.T) {
	u, p, w := quoted(user), quoted(projectID), quoted("a game")
	tests := []struct {
		name, body string
		status     int
		want       string
	}{
		{"empty body", "", 400, badJSON},
		{"no JSON", "user_id=1", 400, badJSON},
		{"array", "[" + generateBody + "]", 400, badJSON},
		{"string", quoted(generateBody), 400, badJSON},
		{"number", "7", 400, badJSON},
		{"null", "null", 400, badJSON},
		{"cut", generateBody[:len(generateBody)-1], 400, badJSON},
		{"trailing garbage", generateBody + "x", 400, badJSON},
		{"two objects", generateBody + generateBody, 400, badJSON},
		{"no UTF-8", strings.Replace(generateBody, "snake", "sn\xffke", 1), 400, badJSON},
		{"deep nesting", `{"x":` + strings.Repeat("[", 1<<20), 400, badJSON},
		{"deep and whole", `{"x":` + strings.Repeat("[", 50000) + strings.Repeat("]", 50000) + "}", 400, badJSON},

		{"no user", body("", p, w), 400, "user_id is required"},
		{"user null", body("null", p, w), 400, "user_id is required"},
		{"user empty", body(`""`, p, w), 400, "user_id is required"},
		{"user a number", body("7", p, w), 400, badUser},
		{"user an object", body(u[:0]+`{"a":1}`, p, w), 400, badUser},
		{"user with dots", body(quoted("../../../../etc/passwd"), p, w), 400, badUser},
		{"user with dots of the right length", body(quoted("../"+user[3:]), p, w), 400, badUser},
		{"user in braces", body(quoted("{"+user+"}"), p, w), 400, badUser},
		{"user as urn", body(quoted("urn:uuid:"+user), p, w), 400, badUser},
		{"user without dashes", body(quoted(strings.ReplaceAll(user, "-", "")), p, w), 400, badUser},
		{"user with NUL", body(quoted(user[:35]+"\x00"), p, w), 400, badUser},
		{"user and NUL", body(quoted(user+"\x00"), p, w), 400, badUser},
		{"user and white space", body(quoted(user+"\n"), p, w), 400, badUser},
		{"user of 200 KB", body(quoted(strings.Repeat("a", 200<<10)), p, w), 400, badUser},
		{"user of 10 MB", body(quoted(strings.Repeat("a", 10<<20)), p, w), 413, "Request body too large"},
		{"name in another case", strings.Replace(generateBody, "user_id", "USER_ID", 1), 400, "user_id is required"},

		{"no project", body(u, "", w), 400, "project_id is required"},
		{"project wrong", body(u, quoted("p"), w), 400, badProject},
		{"project a list", body(u, "["+p+"]", w), 400, badProject},
		{"user before project", body(quoted("u"), quoted("p"), ""), 400, badUser},
		{"project before prompt", body(u, quoted("p"), ""), 400, badProject},

		{"no prompt", body(u, p, ""), 400, noPrompt},
		{"prompt null", body(u, p, "null"), 400, noPrompt},
		{"prompt empty", body(u, p, `""`), 400, noPrompt},
		{"prompt white space", body(u, p, quoted(" \t\n\u3000")), 400, noPrompt},
		{"prompt a number", body(u, p, "7"), 400, noPrompt},
		{"prompt a list", body(u, p, `["a game"]`), 400, noPrompt},
		{"prompt with NUL", body(u, p, quoted("a\x00b")), 400, "Invalid prompt: must be UTF-8 text without NUL"},
		{"commit_message a number", strings.Replace(generateBody, "{", `{"commit_message":7,`, 1), 400, badMessage},
		{"commit_message with NUL", strings.Replace(generateBody, "{", `{"commit_message":"a\u0000",`, 1), 400, badMessage},
		{"commit_message too long", strings.Replace(generateBody, "{", `{"commit_message":"`+strings.Repeat("a", 4097)+`",`, 1), 400, badMessage},
		{"a prompt over the bound", body(u, p, quoted(strings.Repeat("a", dreamcore.MaxPromptBytes+1))), 413, "prompt is too long: at most 400000 bytes"},
		{"a prompt of a MiB", body(u, p, quoted(strings.Repeat("word ", 1<<20/5))), 413, "prompt is too long: at most 400000 bytes"},
		{"user a number like an id", body("1e36", p, w), 400, badUser},
		{"user the word of old for no string", body(quoted("(not a string)"), p, w), 400, badUser},
		{"project true", body(u, "true", w), 400, badProject},
		{"UTF-16", "\xff\xfe{\x00}\x00", 400, badJSON},
		{"UTF-16 without a mark", "{\x00}\x00", 400, badJSON},
		{"gzip without saying so", "\x1f\x8b\x08\x00\x00\x00\x00\x00", 400, badJSON},
		{"the last of two counts", strings.Replace(generateBody, "}", `,"prompt":""}`, 1), 400, noPrompt},
	}
	sv := start(t, options{})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			status, _, got := sv.post("/generate_game", tt.body)
			if status != tt.status || got["error"] != tt.want {
				t.Errorf("status %d, %v", status, got)
			}
			if got["code"] == "" || got["code"] == nil {
				t.Errorf("no code in %v", got)
			}
		})
	}
	if n := len(sv.generator.ids); n != 0 {
		t.Errorf("%d generations were started", n)
	}
}

func TestValidRequestsArriveUnchanged(t *testing.T) {
	japanese, emoji, largest := "ブロック崩しを作って", "🐍👩‍🚀 in 🌌", strings.Repeat("\x01", dreamcore.MaxPromptBytes)
	tests := []struct{ name, prompt, text string }{
		{"slash", "/help me make a game", ""},
		{"Japanese", japanese, ""},
		{"Japanese in ASCII", japanese, escaped(japanese)},
		{"emoji", emoji, ""},
		{"emoji in ASCII", emoji, escaped(emoji)},
		{"lines", "a game\r\nwith lines\n", ""},
		{"the longest", strings.Repeat("a", dreamcore.MaxPromptBytes), ""},
		{"the longest written in 6", largest, escaped(largest)},
	}
	sv := start(t, options{})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			text := tt.text
			if text == "" {
				text = quoted(tt.prompt)
			}
			request := body(quoted(strings.ToUpper(user)), quoted(projectID), text)
			request = "\ufeff" + strings.Replace(request, "{", `{"unknown":{"a":[1]},"prompt":"first",`, 1)
			res := sv.do(sv.request(http.MethodPost, "/generate_game", request))
			if res.StatusCode != http.StatusOK {
				t.Fatalf("status %d", res.StatusCode)
			}
			want := dreamcore.GenerateRequest{User: user, Project: projectID, Prompt: tt.prompt}
			if got := sv.generator.lastRequest(); got != want {
				t.Errorf("got %.100v", got)
			}
		})
	}
}

// escaped encodes every non-ASCII character as \u, as Python does.
func escaped(s string) string {
	var b strings.Builder
	for _, r := range quoted(s) {
		switch {
		case r < 0x80:
			b.WriteRune(r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		}
	}
	return b.String()
}

func TestCommitMessageReachesTheGenerator(t *testing.T) {
	sv := start(t, options{})
	for sent, want := range map[string]string{`"Add snow"`: "Add snow", "null": "", `""`: ""} {
		request := strings.Replace(generateBody, "{", `{"commit_message":`+sent+`,`, 1)
		if res := sv.do(sv.request(http.MethodPost, "/generate_game", request)); res.StatusCode != http.StatusOK {
			t.Errorf("%s: status %d", sent, res.StatusCode)
		}
		if got := sv.generator.lastRequest().CommitMessage; got != want {
			t.Errorf("%s: got %q", sent, got)
		}
	}
}

func TestTestErrorReachesTheGenerator(t *testing.T) {
	sv := start(t, options{})
	with := func(v string) string { return strings.Replace(generateBody, "{", `{"_test_error":`+v+`,`, 1) }
	if res := sv.do(sv.request(http.MethodPost, "/generate_game", with(`"rate_limit"`))); res.StatusCode != http.StatusOK {
		t.Errorf("status %d", res.StatusCode)
	}
	if got := sv.generator.lastRequest().TestError; got != dreamcore.TestErrorRateLimit {
		t.Errorf("got %q", got)
	}
	for _, v := range []string{`"nonsense"`, "1", "{}", "null", `"(not a string)"`} {
		if res := sv.do(sv.request(http.MethodPost, "/generate_game", with(v))); res.StatusCode != http.StatusOK {
			t.Errorf("%s: status %d", v, res.StatusCode)
		}
		if got := sv.generator.lastRequest().TestError; got != dreamcore.TestErrorNone {
			t.Errorf("%s: got %q", v, got)
		}
	}
}

func FuzzDecodeRequest(f *testing.F) {
	for _, s := range []string{
		generateBody, "", "[]", `{"user_id":1}`, `{"user_id":null,"prompt":"\ud800"}`, "\xef\xbb\xbf{}", `{"a":{"prompt":1}}`,
		`{"prompt":"a","prompt":2}`, strings.Repeat(`{"a":`, 100), `{"_test_error":"timeout"}`, "{}{}", "{} ",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := decodeRequest(raw)
		var object map[string]any
		trimmed := strings.TrimPrefix(string(raw), "\ufeff")
		isObject := json.Unmarshal([]byte(trimmed), &object) == nil && object != nil
		if err != nil {
			if dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
				t.Errorf("%v", err)
			}
			return
		}
		if !isObject {
			t.Fatalf("%q was accepted as an object", raw)
		}
		want := dreamcore.Request{}
		want.UserID, want.ProjectID = strings.ToLower(member(object, "user_id")), strings.ToLower(member(object, "project_id"))
		want.Prompt, want.TestError = member(object, "prompt"), member(object, "_test_error")
		if diff := cmp.Diff(want, r); diff != "" {
			t.Error(diff)
		}
	})
}

func member(object map[string]any, name string) string {
	s, _ := object[name].(string)
	return s
}

func TestCompressedBodiesAreRefusedEverywhere(t *testing.T) {
	sv := start(t, options{config: func(c *Config) {
		store := aGame(t)
		c.Projects, c.Editor, c.Skills = store, aDesk(t, store), store
	}})
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write([]byte(generateBody)); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	for _, e := range (&Server{}).endpoints() {
		for _, encoding := range []string{"gzip", "GZIP", "br", "identity, zstd", "deflate", "aes128gcm"} {
			req := sv.request(e.methods[0], "/"+e.name, zipped.String())
			req.Header.Set("Content-Encoding", encoding)
			status, _, got := object(t, sv.do(req))
			if status != http.StatusUnsupportedMediaType || !strings.HasPrefix(fmt.Sprint(got["error"]), "Unsupported Content-Encoding: ") || got["code"] != string(codeEncoding) || got["hint"] == nil {
				t.Errorf("%s, %s: status %d, %v", e.name, encoding, status, got)
			}
		}
	}
	if n := len(sv.generator.ids); n != 0 {
		t.Errorf("%d generations were started", n)
	}
	for _, encoding := range []string{"identity", "", "Identity, identity"} {
		req := sv.request(http.MethodPost, "/generate_game", generateBody)
		req.Header["Content-Encoding"] = []string{encoding}
		if res := sv.do(req); res.StatusCode != http.StatusOK {
			t.Errorf("%q: status %d", encoding, res.StatusCode)
		}
	}
	// The secret is checked first, and an absent body is not compressed.
	req := sv.request(http.MethodPost, "/generate_game", zipped.String())
	req.Header.Set("Content-Encoding", "gzip")
	req.Header.Del(SecretHeader)
	if res := sv.do(req); res.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a secret: status %d", res.StatusCode)
	}
	req = sv.requestFor(endpoint{name: "list_files", methods: []string{http.MethodGet}}, "/list_files")
	req.Header.Set("Content-Encoding", "gzip")
	if res := sv.do(req); res.StatusCode != http.StatusOK {
		t.Errorf("without a body: status %d", res.StatusCode)
	}
}

package e2e

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/google/uuid"
)

// minForms is the size that the corpus must have.
const minForms = 500

// pathForms reads the corpus: forms of a path that tries to leave a project, one Go
// string per line. {{NAME}} is replaced by a value of the test.
func pathForms(t *testing.T, names map[string]string) (forms []string) {
	t.Helper()
	files, err := filepath.Glob("../../../testdata/paths/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no corpus: %v", err)
	}
	seen := map[string]bool{}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(raw)) {
			line = strings.TrimSuffix(line, "\n")
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			form, err := strconv.Unquote(line)
			if err != nil {
				t.Fatalf("%s: %s: %v", file, line, err)
			}
			for name, value := range names {
				form = strings.ReplaceAll(form, "{{"+name+"}}", value)
			}
			if !seen[form] {
				seen[form] = true
				forms = append(forms, form)
			}
		}
	}
	if len(forms) < minForms {
		t.Fatalf("the corpus has %d forms, want %d", len(forms), minForms)
	}
	return forms
}

// jsonBytes returns a JSON string of any bytes, including invalid UTF-8, which
// encoding/json would replace.
func jsonBytes(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range []byte(s) {
		switch {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < 0x20:
			fmt.Fprintf(&b, `\u%04x`, c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// rawQuery writes a form into a query unchanged, as far as a request line allows:
// the server decodes its escapes once.
func rawQuery(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || c == '#' || c == '"' || c == '<' || c == '>' {
			fmt.Fprintf(&b, "%%%02X", c)
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}

// outside returns all files below dir with their contents, except below the
// directories that may change.
func outside(t *testing.T, dir string, except ...string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if slices.Contains(except, path) {
			return fs.SkipDir
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		found[path] = info.Mode().String()
		if d.Type().IsRegular() {
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			found[path] += fmt.Sprintf(" %x", sha256.Sum256(raw))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// prowler sends forms to a service and searches the answers for canaries.
type prowler struct {
	*service
	token  string
	client *http.Client
	mu     sync.Mutex
	counts map[int]int // answers by status; guarded by mu
}

func (p *prowler) ask(what, method, target, body string) string {
	p.h.t.Helper()
	req, err := http.NewRequest(method, p.url, strings.NewReader(body))
	if err != nil {
		p.h.t.Fatal(err)
	}
	path, query, _ := strings.Cut(target, "?")
	req.URL.Path, req.URL.RawQuery = path, query
	req.Header.Set("X-Modal-Secret", p.secret)
	resp, err := p.client.Do(req)
	if err != nil {
		p.h.t.Errorf("%s: %v\n%s", what, err, p.log)
		return ""
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		p.h.t.Errorf("%s: %v", what, err)
	}
	p.mu.Lock()
	p.counts[resp.StatusCode]++
	p.mu.Unlock()
	// The request may be echoed, the content of canaries may not.
	if bytes.Contains(raw, []byte(p.token)) {
		p.h.t.Errorf("%s shows a canary: %.300q", what, raw)
	}
	if resp.StatusCode >= 500 {
		p.h.t.Errorf("%s: %s %.300q", what, resp.Status, raw)
	}
	return string(raw)
}

// TestNoFormOfAPathLeavesAProject tries the corpus on every endpoint that takes a
// path, a name or an id. Canaries around the project are not read, written or
// removed, and nothing appears next to them.
func TestNoFormOfAPathLeavesAProject(t *testing.T) {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		t.Setenv("TMPDIR", "/dev/shm") // hundreds of versions, each of them flushed to disk
	}
	h := newHost(t).unbounded()
	s := h.serve("--model-script", "demo")
	apply := func(user, files string) string {
		return fmt.Sprintf(`{"user_id":%q,"project_id":%q,"files":[%s]}`, user, project, files)
	}
	p := &prowler{service: s, token: "canary-" + uuid.NewString(), counts: map[int]int{}, client: &http.Client{Transport: &http.Transport{MaxIdleConns: 2}}}
	defer p.client.CloseIdleConnections()
	for _, user := range []string{alice, bob} {
		if got := p.ask("begin", "POST", "/apply_files", apply(user, `{"path":"index.html","content":"<p>mine"}`)); !strings.Contains(got, `"done"`) {
			t.Fatal(got)
		}
	}
	// The service is stopped while they are written, so nothing is cached.
	data := filepath.Join(h.state, "volumes", "dreamcore-data", "users")
	elsewhere := t.TempDir()
	mine := filepath.Join(data, alice, "projects", project)
	for _, dir := range []string{
		elsewhere, filepath.Dir(h.state), h.state, filepath.Join(h.state, "secrets"), filepath.Join(h.state, "volumes"),
		data, filepath.Join(data, alice), filepath.Join(data, alice, "projects"), filepath.Join(data, bob),
		filepath.Join(data, bob, "projects"), filepath.Join(data, bob, "projects", project),
		filepath.Join(h.state, "volumes", "dreamcore-global"), filepath.Join(h.state, "history"),
	} {
		if err := os.WriteFile(filepath.Join(dir, "canary.txt"), []byte(p.token), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"SKILL.md", "canary.txt"} { // where a name with dots would lead
		for _, dir := range []string{".", ".claude"} {
			path := filepath.Join(h.state, "volumes", "dreamcore-global", dir, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(p.token), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	forms := pathForms(t, map[string]string{
		"canary": filepath.Join(elsewhere, "canary.txt"), "state": h.state, "bob": bob, "project": project,
	})
	may := []string{
		mine, filepath.Join(h.state, "history", alice), filepath.Join(data, alice, "staging"),
		filepath.Join(h.state, "jobs"), filepath.Join(h.state, "run"), filepath.Join(h.state, "locks"),
	}
	look := func() map[string]string {
		all := outside(t, filepath.Dir(h.state), may...)
		maps.Copy(all, outside(t, elsewhere))
		return all
	}
	before := look()
	prowl(p, forms, apply)
	after := look()
	for _, path := range slices.Sorted(maps.Keys(after)) {
		if before[path] != after[path] {
			t.Errorf("%s is new or changed", path)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(before)) {
		if _, there := after[path]; !there {
			t.Errorf("%s is gone", path)
		}
	}
	left, err := os.ReadDir(filepath.Join(data, alice, "staging"))
	if err != nil || len(left) > 0 {
		t.Errorf("left of changes: %v %v", left, err)
	}
	t.Logf("%d forms, answers by status: %v", len(forms), p.counts)
}

// prowl sends every form in every position of a request, reading and writing at the
// same time.
func prowl(p *prowler, forms []string, apply func(user, files string) string) {
	var all sync.WaitGroup
	for _, work := range []func(form string, what func(string) string){p.read, p.send, func(form string, what func(string) string) {
		name := jsonBytes(form)
		p.ask(what("create"), "POST", "/apply_files", apply(alice, `{"path":`+name+`,"content":"written"}`))
		p.ask(what("delete"), "POST", "/apply_files", apply(alice, `{"path":`+name+`,"action":"delete"}`))
	}} {
		all.Go(func() {
			for _, form := range forms {
				work(form, func(where string) string { return fmt.Sprintf("%s %.200q", where, form) })
			}
		})
	}
	all.Wait()
}

// read sends a form in queries and routes.
func (p *prowler) read(form string, what func(string) string) {
	ids := "user_id=" + alice + "&project_id=" + project
	for _, written := range slices.Compact([]string{url.QueryEscape(form), rawQuery(form)}) {
		p.ask(what("get_file"), "GET", "/get_file?"+ids+"&path="+written, "")
		p.ask(what("get_file first"), "GET", "/get-file?path="+written+"&"+ids, "")
		p.ask(what("get_file user"), "GET", "/get_file?project_id="+project+"&path=canary.txt&user_id="+written, "")
		p.ask(what("get_file project"), "GET", "/get_file?user_id="+alice+"&path=canary.txt&project_id="+written, "")
		p.ask(what("list_files user"), "GET", "/list_files?project_id="+project+"&user_id="+written, "")
		p.ask(what("list_files project"), "GET", "/list_files?user_id="+alice+"&project_id="+written, "")
	}
	if utf8.ValidString(form) {
		p.ask(what("route"), "GET", "/"+form+"?"+ids, "")
		p.ask(what("route behind"), "GET", "/get_file/"+form+"?"+ids, "")
	}
}

// send sends a form in bodies, where no path of a file is expected.
func (p *prowler) send(form string, what func(string) string) {
	name := jsonBytes(form)
	p.ask(what("skill"), "POST", "/get_skill_content", `{"skill_names":[`+name+`,`+jsonBytes(form+"/../x")+`]}`)
	for _, action := range []string{`"files":[{"path":"canary.txt","content":"written"}]`, `"action":"git_log"`} {
		p.ask(what("user"), "POST", "/apply_files", fmt.Sprintf(`{"user_id":%s,"project_id":%q,%s}`, name, project, action))
		p.ask(what("project"), "POST", "/apply_files", fmt.Sprintf(`{"user_id":%q,"project_id":%s,%s}`, alice, name, action))
	}
	p.ask(what("commit"), "POST", "/apply_files", fmt.Sprintf(`{"user_id":%q,"project_id":%q,"action":"git_restore","commit":%s}`, alice, project, name))
	p.ask(what("prewarm"), "POST", "/prewarm_sandbox", `{"user_id":`+name+`}`)
	p.ask(what("generate"), "POST", "/generate_game", `{"user_id":`+name+`,"project_id":`+name+`,"prompt":"a game"}`)
}

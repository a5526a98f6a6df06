package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/work/project"
)

// slowEditor applies changes that end when end is closed.
type slowEditor struct {
	Editor
	inside, most atomic.Int64
	begun        chan struct{}
	end          chan struct{}
}

func (e *slowEditor) Lock(context.Context, dreamcore.UserID, dreamcore.ProjectID) (func(), error) {
	return func() {}, nil
}

func (e *slowEditor) Apply(_ context.Context, _ dreamcore.UserID, _ dreamcore.ProjectID, changes []project.Change, _ string) ([]project.Applied, error) {
	if n := e.inside.Add(1); n > e.most.Load() {
		e.most.Store(n)
	}
	defer e.inside.Add(-1)
	e.begun <- struct{}{}
	<-e.end
	return make([]project.Applied, len(changes)), nil
}

// TestBodiesOfChangesAreBoundedTogether sends more than may be in memory at once,
// with and without a length.
func TestBodiesOfChangesAreBoundedTogether(t *testing.T) {
	store := openVolumes(t)
	e := &slowEditor{begun: make(chan struct{}, 10), end: make(chan struct{})}
	const one = 2000 // bytes
	sv := start(t, options{config: func(c *Config) {
		c.Projects, c.Editor, c.Skills = store, e, store
		c.Limits.MaxApplyBody, c.Limits.MaxApplyBytes, c.Limits.ApplyPatience = one, 2*one+one/2, 200*time.Millisecond
	}})
	body := applyBody(`"files":[{"path":"a","content":"`)
	body += strings.Repeat("x", one-len(body)-4) + `"}]}`
	if len(body) != one {
		t.Fatal(len(body))
	}
	send := func(r io.Reader) *http.Request {
		req := sv.request(http.MethodPost, "/apply_files", "")
		req.Body, req.ContentLength = io.NopCloser(r), -1
		if s, ok := r.(*strings.Reader); ok {
			req.ContentLength = s.Size()
		}
		return req
	}
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			res := sv.do(send(strings.NewReader(body)))
			_, _ = io.Copy(io.Discard, res.Body)
			if res.StatusCode != http.StatusOK {
				t.Error(res.Status)
			}
		})
		<-e.begun
	}
	for name, r := range map[string]io.Reader{"with a length": strings.NewReader(body), "without": io.MultiReader(strings.NewReader(body))} {
		res := sv.do(send(r))
		text, _ := io.ReadAll(res.Body)
		if res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") == "" || !strings.Contains(string(text), "BUSY") {
			t.Errorf("%s: %s %s", name, res.Status, text)
		}
	}
	if res := sv.do(send(strings.NewReader(strings.Repeat("x", one+1)))); res.StatusCode != http.StatusRequestEntityTooLarge {
		t.Error(res.Status)
	}
	if res := sv.do(send(strings.NewReader(applyBody(`"action":"x"`)))); res.StatusCode != http.StatusBadRequest {
		t.Error("a small request has no room:", res.Status)
	}
	close(e.end)
	all.Wait()
	if e.most.Load() != 2 {
		t.Errorf("%d at once", e.most.Load())
	}
	res := sv.do(send(io.MultiReader(strings.NewReader(body))))
	_, _ = io.Copy(io.Discard, res.Body)
	if res.StatusCode != http.StatusOK || !sv.server.applied.TryAcquire(2*one+one/2) {
		t.Error("a reservation was not released:", res.Status)
	}
}

// TestListFilesSaysWhatItLeavesOut has files beyond the limit on paths, and names
// that take six times their bytes in JSON.
func TestListFilesSaysWhatItLeavesOut(t *testing.T) {
	get, store := fileServer(t)
	files := map[string]string{"index.html": "x", "a\"b<&>": "x"}
	for i := range 50 {
		files[fmt.Sprintf("odd/%03d%s", i, strings.Repeat("\x01", 250))] = "x"
	}
	dir := withFiles(t, store, files)
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		name := strings.Repeat("d", dreamcore.MaxNameBytes)
		err := root.Mkdir(name, 0o755)
		next, err2 := root.OpenRoot(name)
		root.Close()
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		root = next
	}
	defer root.Close()
	if err := root.WriteFile("far", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	resp, body := get("/list_files")
	var got struct {
		Files   []string
		LeftOut int `json:"left_out"`
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil || resp.StatusCode != 200 || len(got.Files) != len(files) || got.LeftOut != 1 {
		t.Fatalf("%s %.300s: %d files, %d left out, %v", resp.Status, body, len(got.Files), got.LeftOut, err)
	}
	for _, name := range got.Files {
		if _, ok := files[name]; !ok {
			t.Errorf("%q", name)
		}
	}
	if !strings.HasPrefix(body, `{"files":["a\"b<&>","index.html","odd/`) {
		t.Errorf("%.100s", body)
	}
}

// TestLongListsAreBoundedTogether has more long lists than may be in memory, whose
// clients do not read them.
func TestLongListsAreBoundedTogether(t *testing.T) {
	store := openVolumes(t)
	sv := start(t, options{config: func(c *Config) { c.Projects, c.Skills = store, store }})
	files := map[string]string{}
	for i := range 2 * largeList / 250 {
		files[fmt.Sprintf("%05d%s", i, strings.Repeat("n", 245))] = ""
	}
	withFiles(t, store, files)
	open := func() (done func(), err error) {
		p, err := store.Find(user, projectID)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		list, _, done, err := sv.server.walk(t.Context(), user, p)
		if err == nil && len(list) != len(files) {
			t.Errorf("%d files of %d", len(list), len(files))
		}
		return done, err
	}
	var last func()
	for range maxLargeLists {
		done, err := open()
		if err != nil {
			t.Fatal(err)
		}
		last = done
	}
	if _, err := open(); dreamcore.CodeOf(err) != dreamcore.CodeBusy {
		t.Errorf("one more long list: %v", err)
	}
	last()
	done, err := open()
	if err != nil {
		t.Fatalf("when one was read: %v", err)
	}
	for name := range files {
		delete(files, name)
		if err := os.Remove(filepath.Join(withFiles(t, store, nil), name)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := open(); err != nil {
		t.Errorf("a short list: %v", err)
	}
	done()
}

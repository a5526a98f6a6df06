package prompt

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestFileChangesApplyWhileServing(t *testing.T) {
	r := newRig(t, says("edit"))
	later := func() { r.clock = r.clock.Add(2 * lookAge) }
	own := strings.Replace(smallFile, "key: result", "key: own", 1)

	r.put("prompts/mine.yaml", own)
	if got := r.answer("mine", `{"message":"m"}`); got.Body["own"] != "edit" {
		t.Errorf("a new one: %v", got.Body)
	}
	version := r.set.Version()

	r.put("prompts/detect_intent.yaml", own)
	if got := r.answer("detect_intent", `{"message":"m"}`); got.Body["own"] != "edit" || r.set.Version() == version {
		t.Errorf("a replaced one: %v", got.Body)
	}

	// An invalid file: the previous version stays in use, and the file is logged once.
	r.put("prompts/detect_intent.yaml", "model: [")
	r.put("prompts/chat_haiku.yaml", "model: x")
	r.put("prompts/other.yaml", "model: x")
	later()
	for range 3 {
		if got := r.answer("detect_intent", `{"message":"m"}`); got.Body["own"] != "edit" {
			t.Errorf("a broken one: %v", got.Body)
		}
		later()
	}
	if e := r.set.Get("chat_haiku"); e == nil || !e.Shipped {
		t.Errorf("%v", e)
	}
	if r.set.Get("other") != nil {
		t.Error("a new one with faults is there")
	}
	problems := r.set.Problems()
	if len(problems) != 3 || problems[0].File != "prompts/chat_haiku.yaml" || !problems[0].Kept || !problems[1].Kept || problems[2].Kept {
		t.Errorf("%+v", problems)
	}
	if n := strings.Count(r.log.String(), "prompts/detect_intent.yaml"); n != 2 {
		t.Errorf("the log names the file %d times:\n%s", n, r.log.String())
	}

	// Corrected, then removed.
	r.put("prompts/detect_intent.yaml", smallFile)
	later()
	if got := r.answer("detect_intent", `{"message":"m"}`); got.Body["result"] != "edit" {
		t.Errorf("a mended one: %v", got.Body)
	}
	if err := os.RemoveAll(filepath.Join(r.dir, "prompts")); err != nil {
		t.Fatal(err)
	}
	later()
	if got := r.answer("detect_intent", `{"message":"m"}`); got.Body["intent"] != "edit" || r.set.Get("mine") != nil || len(r.set.Problems()) != 0 {
		t.Errorf("without files: %v", got.Body)
	}
}

func TestFilesThatAreNotEndpointsAreReported(t *testing.T) {
	r := newRig(t, says("edit"))
	for _, name := range []string{"generate_game.yaml", "my_generate_game.yaml", "health.yaml", "Upper.yaml", "a-b.yaml", "notes.txt", "x.yml", "directory.yaml/x"} {
		r.put("prompts/"+name, smallFile)
	}
	r.put("prompts/.saved.yaml.swp", "x")
	r.put("prompts/copy.yaml~", "x")
	if err := os.Symlink("/etc/passwd", filepath.Join(r.dir, "prompts/link.yaml")); err != nil {
		t.Fatal(err)
	}
	r.clock = r.clock.Add(time.Hour)
	var named []string
	for _, p := range r.set.Problems() {
		named = append(named, p.File)
	}
	want := "prompts/Upper.yaml prompts/a-b.yaml prompts/directory.yaml prompts/generate_game.yaml prompts/health.yaml prompts/link.yaml " +
		"prompts/my_generate_game.yaml prompts/notes.txt prompts/x.yml"
	if got := strings.Join(named, " "); got != want {
		t.Errorf("%s", got)
	}
	names, _ := r.set.Names()
	if len(names) != 8 {
		t.Errorf("%v", names)
	}
}

func TestTooManyFilesAreAProblem(t *testing.T) {
	r := newRig(t, says("edit"))
	for i := range maxFiles + 2 {
		if err := os.MkdirAll(filepath.Join(r.dir, Dir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(r.dir, Dir, fmt.Sprintf("e%d.yaml", i)), []byte(smallFile), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		r.clock = r.clock.Add(time.Hour)
		if p := r.set.Problems(); len(p) != 1 || p[0].File != Dir || !strings.Contains(p[0].Err.Error(), "more than 500 files") {
			t.Fatalf("%v", p)
		}
	}
	if n := strings.Count(r.log.String(), "more than 500 files"); n != 1 {
		t.Errorf("logged %d times", n)
	}
	for i := range 2 {
		if err := os.Remove(filepath.Join(r.dir, Dir, fmt.Sprintf("e%d.yaml", i))); err != nil {
			t.Fatal(err)
		}
	}
	r.clock = r.clock.Add(time.Hour)
	if p := r.set.Problems(); len(p) != 0 {
		t.Errorf("%v", p)
	}
}

func TestMissingDirectoryIsAllowedButNotUnreadable(t *testing.T) {
	missing := func() (*os.Root, error) { return nil, &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "none"} }
	if s, err := Open(Source{Open: missing}); err != nil || s.Get("detect_intent") == nil {
		t.Errorf("%v", err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, Dir), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Source{Open: func() (*os.Root, error) { return os.OpenRoot(dir) }}); err == nil || !strings.Contains(err.Error(), Dir) {
		t.Errorf("%v", err)
	}
}

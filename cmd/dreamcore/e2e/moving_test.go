package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestProjectsMoveInAndOut moves an old volume through every command, while the
// service runs, with users in file systems of their own.
func TestProjectsMoveInAndOut(t *testing.T) {
	h := newHost(t)
	dir := t.TempDir()
	old := filepath.Join(dir, "old/users", alice, "projects", project)
	if err := os.MkdirAll(old, 0o755); err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("cd %q && git init -q -b main && echo one >index.html && git add -A && git -c user.name=a -c user.email=a@x commit -qm first && echo two >index.html && git -c user.name=a -c user.email=a@x commit -qam second && git rev-parse HEAD", old)
	out, err := exec.Command("sh", "-c", script).Output()
	if err != nil {
		t.Fatal(err)
	}
	head := strings.TrimSpace(string(out))
	s := h.serve("--model-script", "demo")
	if out := h.must("import", filepath.Join(dir, "old"), "--json"); !strings.Contains(out, `"state":"copied"`) || !strings.Contains(out, `"versions":2`) {
		t.Fatal(out)
	}
	if got := s.file(alice, project, "index.html"); got != "two\n" {
		t.Errorf("served: %q", got)
	}
	_, log := s.object("/apply_files", fmt.Sprintf(`{"user_id":%q,"project_id":%q,"action":"git_log"}`, alice, project))
	commits, _ := log["commits"].([]any)
	if len(commits) != 2 || !strings.HasPrefix(head, commits[0].(map[string]any)["hash"].(string)) {
		t.Errorf("%v, want %s", log, head)
	}

	place := "users/" + alice + "/projects/" + project
	if out := h.must("volume", "ls", "dreamcore-data", place); !strings.Contains(out, "index.html") {
		t.Error(out)
	}
	if r := h.runIn("by hand\n", "volume", "put", "dreamcore-data", "-", place+"/index.html"); r.code != 1 || !strings.Contains(r.stderr, "--force") {
		t.Errorf("over a file: %+v", r)
	}
	if r := h.runIn("by hand\n", "volume", "put", "dreamcore-data", "-", place+"/index.html", "--force"); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	if out := h.must("volume", "get", "dreamcore-data", place+"/index.html", "-"); out != "by hand\n" {
		t.Errorf("%q", out)
	}
	assets := filepath.Join(dir, "assets")
	if err := os.MkdirAll(filepath.Join(assets, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"a.png": "a", "sub/b.png": "b"} {
		if err := os.WriteFile(filepath.Join(assets, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	h.must("volume", "put", "dreamcore-data", assets, place+"/")
	if got := s.file(alice, project, "assets/sub/b.png"); got != "b" {
		t.Errorf("served: %q", got)
	}
	h.must("volume", "get", "dreamcore-data", place, filepath.Join(dir, "game"))
	if raw, err := os.ReadFile(filepath.Join(dir, "game/assets/a.png")); err != nil || string(raw) != "a" {
		t.Errorf("%q %v", raw, err)
	}
	if r := h.run("volume", "delete", "dreamcore-data", place+"/assets"); r.code == 0 {
		t.Error("a directory was removed without -r")
	}
	h.must("volume", "delete", "dreamcore-data", place+"/assets", "-r")
	if got := s.file(alice, project, "assets/a.png"); got == "a" {
		t.Error("still served")
	}
	h.must("volume", "put", "dreamcore-global", assets, "/")
	if out := h.must("volume", "get", "dreamcore-global", "assets/a.png", "-"); out != "a" {
		t.Errorf("%q", out)
	}
	for _, path := range []string{"../../secrets", "users/" + alice + "/homes", "users/../.disks", "users/" + alice + "/staging"} {
		if r := h.run("volume", "ls", "dreamcore-data", path); r.code == 0 {
			t.Errorf("%s: %s", path, r.stdout)
		}
	}

	backup := filepath.Join(dir, "all.tar.zst")
	h.must("export", project, filepath.Join(dir, "one.tar"))
	h.must("backup", backup, "--with-secrets", "--with-identity")
	if out := h.must("restore", "--check", backup); !strings.Contains(out, "1 projects") {
		t.Error(out)
	}
	if r := h.run("restore", backup); r.code == 0 || !strings.Contains(r.stderr, "--force") {
		t.Errorf("over existing projects: %+v", r)
	}
	s.stop()
	fresh := emptyHost(t)
	fresh.must("restore", backup)
	if out := fresh.must("volume", "get", "dreamcore-data", place+"/index.html", "-"); out != "by hand\n" {
		t.Errorf("restored: %q", out)
	}
	if a, b := h.must("secret", "show", "modal-internal-secret"), fresh.must("secret", "show", "modal-internal-secret"); a != b {
		t.Error("the secrets differ")
	}
	repo := filepath.Join(fresh.state, "history", alice, project+".git")
	if out, err := exec.Command("git", "--git-dir", repo, "fsck", "--strict", "--no-dangling").CombinedOutput(); err != nil {
		t.Errorf("git fsck: %s %v", out, err)
	}
}

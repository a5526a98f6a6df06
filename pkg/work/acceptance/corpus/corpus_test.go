package corpus_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/corpus"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

const games = "../../../../testdata/games"

func load(t *testing.T) []corpus.Case {
	t.Helper()
	cases, err := corpus.Load(games)
	if err != nil {
		t.Fatal(err)
	}
	return cases
}

func TestTheTableAndTheFoldersAgree(t *testing.T) {
	listed := map[string]bool{}
	count := map[corpus.Kind]int{}
	for _, c := range load(t) {
		listed[string(c.Kind)+"/"+c.Name] = true
		count[c.Kind]++
	}
	for kind, least := range map[corpus.Kind]int{corpus.Good: 32, corpus.Broken: 34, corpus.Hostile: 50} {
		if count[kind] < least {
			t.Errorf("%d %s cases, want at least %d", count[kind], kind, least)
		}
		entries, err := os.ReadDir(filepath.Join(games, string(kind)))
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			name := string(kind) + "/" + strings.TrimSuffix(entry.Name(), ".html")
			if !listed[name] {
				t.Errorf("%s is not in cases.yaml", name)
			}
			delete(listed, name)
		}
	}
	for name := range listed {
		t.Errorf("%s is in cases.yaml and has no files", name)
	}
}

func TestFailuresNameLinesThatExist(t *testing.T) {
	for _, c := range load(t) {
		dir := t.TempDir()
		own := c
		own.Packages = nil // they are not needed here
		if err := own.Copy(dir); err != nil {
			t.Fatal(err)
		}
		for _, f := range c.Fails {
			data, err := os.ReadFile(filepath.Join(dir, f.File))
			if f.Check == verdict.Loads && f.File != "" {
				if err == nil {
					t.Errorf("%s: %s is there and shall be missing", c.Name, f.File)
				}
				continue
			}
			lines := strings.Split(string(data), "\n")
			if f.Line > 0 && (err != nil || f.Line > len(lines) || strings.TrimSpace(lines[f.Line-1]) == "") {
				t.Errorf("%s: %s has no line %d: %v", c.Name, f.File, f.Line, err)
			}
		}
	}
}

func TestEveryPageIsCopied(t *testing.T) {
	for _, c := range load(t) {
		dir := t.TempDir()
		c.Packages = nil
		if err := c.Copy(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "index.html")); err != nil && c.Name != "page-in-a-folder" {
			t.Errorf("%s: %v", c.Name, err)
		}
	}
}

func TestPackagesAreCopied(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "cases.yaml"), "good:\n  g:\n    about: a game\n    packages: [{package: '@scope/lib@1.2.3', file: dist/lib.js, to: vendor/lib.js}]\n")
	write(t, filepath.Join(dir, "good/g/index.html"), "<p>")
	cases, err := corpus.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := cases[0].Copy(t.TempDir()); err == nil || !strings.Contains(err.Error(), "scripts/games.sh") {
		t.Errorf("without its package: %v", err)
	}
	write(t, filepath.Join(dir, ".packages/node_modules/@scope/lib/dist/lib.js"), "lib")
	to := t.TempDir()
	if err := cases[0].Copy(to); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(to, "vendor/lib.js")); string(data) != "lib" {
		t.Errorf("vendor/lib.js has %q, %v", data, err)
	}
}

func TestWrongTablesAreRejected(t *testing.T) {
	for table, want := range map[string]string{
		"good: {g: {}}": "about is empty",
		"good: {g: {about: a, fails: [{check: draws}]}}":                                    "belongs to broken games",
		"broken: {b: {about: a}}":                                                           "belongs to broken games",
		"broken: {b: {about: a, fails: [{check: draw}]}}":                                   "unknown check",
		"broken: {b: {about: a, fails: [{check: draws, screen: tablet}]}}":                  "unknown screen",
		"good: {g: {about: a, needs: [webgpu]}}":                                            "unknown feature",
		"good: {g: {about: a, packages: [{package: lib@latest, file: a.js, to: b.js}]}}":    "exact version",
		"good: {g: {about: a, surprise: 1}}":                                                "surprise",
		"good: {g: {about: a}, g: {about: b}}":                                              "already defined",
		"good: {g: {about: a, packages: [{package: lib@1.2.3, file: a.js, into: vendor}]}}": "into",
	} {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "cases.yaml"), table)
		if _, err := corpus.Load(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", table, err, want)
		}
	}
}

func TestWrongComparesAReportWithTheTable(t *testing.T) {
	broken := corpus.Case{Kind: corpus.Broken, Fails: []corpus.Failure{
		{Check: verdict.Errors, File: "game.js", Line: 7, Message: "is not defined"},
		{Check: verdict.Draws, Screen: verdict.Phone},
	}}
	good := corpus.Case{Kind: corpus.Good}
	check := func(name verdict.Name, screen verdict.Screen, status verdict.Status, file string, line int, message string) verdict.Report {
		return verdict.Report{Verdict: status, Checks: []verdict.Check{{Name: name, Screen: screen, Status: status, File: file, Line: line, Message: message}}}
	}
	for _, test := range []struct {
		about  string
		c      corpus.Case
		report verdict.Report
		wrong  bool
	}{
		{"the error at its line", broken, check(verdict.Errors, verdict.Desktop, verdict.Failed, "game.js", 7, "ReferenceError: x IS NOT defined"), false},
		{"another line", broken, check(verdict.Errors, verdict.Desktop, verdict.Failed, "game.js", 8, "x is not defined"), true},
		{"another file", broken, check(verdict.Errors, verdict.Desktop, verdict.Failed, "main.js", 7, "x is not defined"), true},
		{"another message", broken, check(verdict.Errors, verdict.Desktop, verdict.Failed, "game.js", 7, "x is not a function"), true},
		{"the screen", broken, check(verdict.Draws, verdict.Phone, verdict.Failed, "", 0, ""), false},
		{"another screen", broken, check(verdict.Draws, verdict.Desktop, verdict.Failed, "", 0, ""), true},
		{"it cannot tell", broken, check(verdict.Draws, verdict.Phone, verdict.Unknown, "", 0, ""), true},
		{"it passes", broken, check(verdict.Draws, verdict.Phone, verdict.Passed, "", 0, ""), true},
		{"a good game passes", good, check(verdict.Draws, verdict.Phone, verdict.Passed, "", 0, ""), false},
		{"a good game that it cannot tell", good, check(verdict.Draws, verdict.Phone, verdict.Unknown, "", 0, ""), false},
		{"a good game fails", good, check(verdict.Draws, verdict.Phone, verdict.Failed, "", 0, ""), true},
		{"a good game fails for no reason", good, verdict.Report{Verdict: verdict.Failed}, true},
	} {
		if got := test.c.Wrong(test.report); (got != "") != test.wrong {
			t.Errorf("%s: %q", test.about, got)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

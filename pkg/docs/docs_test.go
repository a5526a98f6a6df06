package docs

import (
	"io/fs"
	"strings"
	"testing"
)

func TestEveryPageIsATopic(t *testing.T) {
	files, err := fs.Glob(pages, "*.md")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(Topics()) {
		t.Errorf("%d files, %d topics", len(files), len(Topics()))
	}
	for _, topic := range Topics() {
		page, ok := Page(topic)
		if !ok || !strings.HasPrefix(page, "# ") || Title(page) == "" {
			t.Errorf("%s: no page that begins with a heading", topic)
		}
	}
	if _, ok := Page("../docs/overview"); ok {
		t.Error("a path is accepted as a topic")
	}
	overview, _ := Page("overview")
	for _, topic := range Topics()[1:] {
		if !strings.Contains(overview, "("+topic+".md)") {
			t.Errorf("the overview does not link to %s", topic)
		}
	}
}

package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/docs"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// help runs the help command and returns its standard output.
func help(t *testing.T, args ...string) (string, error) {
	t.Helper()
	io, out, _ := term.Buffers("")
	root := newRootCmd(&app{io: io, flags: map[string]any{}})
	root.SetArgs(append([]string{"help"}, args...))
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func TestHelpShowsCommandsAndTopics(t *testing.T) {
	for _, topic := range docs.Topics() {
		page, _ := docs.Page(topic)
		if out, err := help(t, topic); err != nil || out != page {
			t.Errorf("%s: the page is not printed as it is to a pipe: %v", topic, err)
		}
	}
	out, err := help(t)
	if err != nil || !strings.Contains(out, "generate") || !strings.Contains(out, "troubleshooting") {
		t.Errorf("help lists commands and topics: %v\n%s", err, out)
	}
	if out, err := help(t, "secret", "rotate"); err != nil || !strings.Contains(out, "--finish") {
		t.Errorf("help of a command: %v\n%s", err, out)
	}
	_, err = help(t, "nothing")
	if dreamcore.CodeOf(err) != dreamcore.CodeInvalid || !strings.Contains(dreamcore.HintOf(err), "upgrade") {
		t.Errorf("an unknown topic: %v", err)
	}
	var page map[string]string
	if out, err = help(t, "install", "--json"); err != nil || json.Unmarshal([]byte(out), &page) != nil || page["title"] != "Install" {
		t.Errorf("as JSON: %v\n%s", err, out)
	}
}

package engine

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
)

func TestASharedBoundThatCannotBeSetIsLoggedOnce(t *testing.T) {
	var logged bytes.Buffer
	p := &Provider{log: slog.New(slog.NewTextHandler(&logged, nil))}
	p.reportShare(nil)
	if logged.Len() > 0 {
		t.Errorf("logged without an error: %s", logged.String())
	}
	for range 3 {
		p.reportShare(errors.New("read-only file system"))
	}
	if got := logged.String(); strings.Count(got, "read-only file system") != 1 {
		t.Errorf("logged: %s", got)
	}
}

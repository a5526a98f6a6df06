package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestCausesKeepWarningsAndErrorsOfTheLog(t *testing.T) {
	var raw bytes.Buffer
	var c Causes
	log := slog.New(c.Handler(slog.NewTextHandler(&raw, &slog.HandlerOptions{Level: slog.LevelError}))).With("job", "j")
	log.Info("not kept")
	for range 3 {
		log.Warn("the model failed", "err", errors.New("connection refused"), "code", "x", "request_id", "")
	}
	log.Error("the disk is nearly full", "hint", "free space", "reason", dreamcore.Reason("disk.x"))
	log.Error("generation failed", "error", "exit code 1")
	if len(c.kept) != 3 || c.kept[0].Message != "the model failed" || strings.Join(c.kept[0].Details, ",") != "connection refused" ||
		c.kept[1].Hint != "free space" || len(c.kept[1].Details) != 0 || c.kept[2].Details[0] != "exit code 1" {
		t.Errorf("%+v", c.kept)
	}
	if got := raw.String(); !strings.Contains(got, "nearly full") || strings.Contains(got, "generation failed") || strings.Contains(got, "model failed") {
		t.Errorf("the log is %s", got)
	}
	for i := range 100 {
		log.Warn(fmt.Sprint(i))
	}
	if len(c.kept) != keptCauses || c.kept[keptCauses-1].Message != "99" {
		t.Errorf("%+v", c.kept)
	}
}

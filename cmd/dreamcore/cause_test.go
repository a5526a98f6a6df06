package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestCausesKeepWarningsAndErrorsOfTheLog(t *testing.T) {
	var raw bytes.Buffer
	var c causes
	log := slog.New(c.over(slog.NewTextHandler(&raw, &slog.HandlerOptions{Level: slog.LevelError}))).With("job", "j")
	log.Info("not kept")
	for range 3 {
		log.Warn("the model failed", "err", errors.New("connection refused"), "code", "x", "request_id", "")
	}
	log.Error("the disk is nearly full", "hint", "free space")
	log.Error("generation failed", "error", "exit code 1")
	if len(c.kept) != 3 || c.kept[0].message != "the model failed" || strings.Join(c.kept[0].details, ",") != "connection refused" ||
		c.kept[1].hint != "free space" || c.kept[2].details[0] != "exit code 1" {
		t.Errorf("%+v", c.kept)
	}
	if got := raw.String(); !strings.Contains(got, "nearly full") || strings.Contains(got, "generation failed") || strings.Contains(got, "model failed") {
		t.Errorf("the log is %s", got)
	}
	for i := range 100 {
		log.Warn(fmt.Sprint(i))
	}
	if len(c.kept) != keptCauses || c.kept[keptCauses-1].message != "99" {
		t.Errorf("%+v", c.kept)
	}
}

func TestEveryFailureHasANextCommand(t *testing.T) {
	for _, code := range []dreamcore.FailureCode{
		dreamcore.FailAuth, dreamcore.FailNetwork, dreamcore.FailDisk, dreamcore.FailQuota, dreamcore.FailSandbox,
		dreamcore.FailNoGame, dreamcore.FailCLITimeout, dreamcore.FailCLIGeneral, dreamcore.FailSandboxLost, "NEW_CODE",
	} {
		o := client.Outcome{Code: code, Recoverable: dreamcore.Failure{Code: code}.Recoverable()}
		if got := nextCommand(o); got == "" || o.Recoverable && strings.Contains(got, "log-level") {
			t.Errorf("%s: %q", code, got)
		}
	}
}

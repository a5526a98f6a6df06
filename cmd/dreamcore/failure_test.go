package main

import (
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

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

package server

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// The end-to-end test has every endpoint; here are the errors that it does not meet.
func TestTheAnswerOfAFullDisk(t *testing.T) {
	quota := &dreamcore.Error{Code: dreamcore.CodeTooLarge, Message: "the project is full", Err: unix.ENOSPC}
	for name, c := range map[string]struct {
		err    error
		status int
		code   dreamcore.Code
		apply  string
	}{
		"with a code":    {fmt.Errorf("x: %w", statefile.Error("write", unix.ENOSPC)), http.StatusServiceUnavailable, codeDisk, "OS_ERROR"},
		"without one":    {errors.Join(errors.New("x"), unix.EDQUOT), http.StatusServiceUnavailable, codeDisk, "OS_ERROR"},
		"of the user":    {quota, http.StatusRequestEntityTooLarge, dreamcore.CodeTooLarge, "QUOTA_EXCEEDED"},
		"another fault":  {statefile.Error("write", unix.EIO), http.StatusInternalServerError, dreamcore.CodeInternal, "INTERNAL"},
		"not writable":   {statefile.Error("write", unix.EROFS), http.StatusInternalServerError, dreamcore.CodeInternal, "OS_ERROR"},
		"not of a store": {errors.New("x"), http.StatusInternalServerError, dreamcore.CodeInternal, "INTERNAL"},
	} {
		status, body := describe(c.err)
		if status != c.status || body.Code != c.code || body.Code == codeDisk && body.Hint == "" {
			t.Errorf("%s: %d, %+v", name, status, body)
		}
		if got := string(encodeMessage(applyFailure(c.err)).event); !strings.Contains(got, `"code":"`+c.apply+`"`) {
			t.Errorf("%s: %s", name, got)
		}
	}
}

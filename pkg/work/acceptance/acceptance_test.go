package acceptance

import (
	"errors"
	"fmt"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestASentenceHasNoCause(t *testing.T) {
	cause := errors.New("open /srv/state: permission denied")
	died := unknown(ReasonDied, "the browser ended during the check", cause)
	for _, tt := range []struct {
		err  error
		want string
	}{
		{died, "the browser ended during the check"},
		{fmt.Errorf("%w: %w", cause, died), "the browser ended during the check"},
		{&dreamcore.Error{Code: dreamcore.CodeInternal, Message: cause.Error(), Err: died}, "the browser ended during the check"},
		{&dreamcore.Error{Code: dreamcore.CodeInternal, Message: cause.Error()}, noVerdict},
		{cause, noVerdict},
	} {
		if got := Sentence(tt.err); got != tt.want {
			t.Errorf("%v: %q", tt.err, got)
		}
	}
}

package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// reachLimit is how long one upstream may take to answer.
const reachLimit = 5 * time.Second

// Reach returns nil if at least one upstream can be reached: it answers, whatever
// it says. No credential is sent.
func (l *List) Reach(ctx context.Context) error {
	var errs []error
	for _, m := range l.members {
		err := m.reach(ctx)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("upstream %s: %w", m.entry.Name, err))
	}
	return errors.Join(errs...)
}

func (m *member) reach(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, reachLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, m.entry.address(), nil)
	if err != nil {
		return err
	}
	res, err := m.api.Transport().RoundTrip(req)
	if err != nil {
		return err
	}
	return res.Body.Close()
}

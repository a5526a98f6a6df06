package daemon

import (
	"context"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/replay"
)

// Generate submits a job, calls began with its id, and then fn with each of its
// events, up to the last one, whose outcome it returns. began may be nil. When ctx
// ends or fn fails, the job is cancelled; after ctx has ended it is still followed to
// its end, so that it leaves nothing behind.
func (m *Machine) Generate(ctx context.Context, req dreamcore.GenerateRequest, lang dreamcore.Language, began func(job string) error, fn func(dreamcore.Event) error) (client.Outcome, error) {
	var end client.Outcome
	id, err := m.Jobs.Submit(context.WithoutCancel(ctx), req, lang)
	if err != nil {
		return end, err
	}
	if began != nil {
		if err := began(id); err != nil {
			_ = m.Jobs.Cancel(id)
			return end, err
		}
	}
	stop := context.AfterFunc(ctx, func() { _ = m.Jobs.Cancel(id) })
	defer stop()
	r, err := m.Journal.Reader(id, 0)
	if err != nil {
		return end, err
	}
	defer r.Close()
	for e, err := range r.Follow(context.WithoutCancel(ctx)) {
		if err != nil {
			return end, err
		}
		if o, ok := client.Terminal(e.Event); ok {
			end = o
		}
		if err := fn(e.Event); err != nil {
			_ = m.Jobs.Cancel(id)
			return end, err
		}
	}
	return end, nil
}

// DemoWithoutKey selects the demo script if there is no key for the model API. If a
// list of upstreams is configured, missing credentials are an error.
func (s *State) DemoWithoutKey() error {
	if s.Config.ModelScript != "" {
		return nil
	}
	err := s.CheckModel()
	if err != nil && len(s.Config.Upstreams) == 0 {
		s.Config.ModelScript, err = replay.DemoName, nil
	}
	return err
}

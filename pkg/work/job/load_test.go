package job

import (
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// What webhooks and metrics need is in the record, also of a job that another
// process takes up.
func TestTheRecordHasTheWebhookAndTheFirstWord(t *testing.T) {
	r := resuming(t, options{play: talksUntilStopped, settings: one, parts: func(p *Parts) { p.CheckWebhook = func(string) error { return nil } }})
	w := request(alice, "a snake")
	w.WebhookURL, w.RequestID = "https://app.example.com/x", "front-end-7"
	id := r.submit(w)
	r.until(id, isType("began"))
	waits := r.submit(request(bob, "waits"))
	if got := r.service.Load(); got.Running != 1 || got.Queued != 1 || got.MaxRunning != 1 {
		t.Errorf("%+v", got)
	}
	r.service.Cancel(waits)
	dir := r.crashed()

	ended := make(chan dreamcore.Job, 10)
	next := resuming(t, options{dir: dir, play: func(g guest) (int, error) {
		g.say(`{"type":"assistant","message":{"id":"2"}}` + "\n")
		return makesGame(g)
	}, parts: func(p *Parts) { p.Ended = func(j dreamcore.Job) { ended <- j } }})
	next.recover()
	for j := range ended {
		if j.ID != id {
			continue
		}
		if j.WebhookURL != w.WebhookURL || j.RequestID != w.RequestID || j.FirstWord.Before(j.Created) || j.FirstWord.After(j.Ended) {
			t.Errorf("%+v", j)
		}
		break
	}
	if j := next.final(id); j.FirstWord.IsZero() || j.WebhookURL == "" {
		t.Errorf("%+v", j)
	}
	// The log alone has it all too.
	p, err := next.service.read(id, next.final(id).Ended)
	if err != nil || p.row.FirstWord.IsZero() || p.row.WebhookURL != w.WebhookURL || p.request.WebhookURL != w.WebhookURL {
		t.Errorf("%+v, %v", p, err)
	}
}

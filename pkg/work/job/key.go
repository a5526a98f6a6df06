package job

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/record"
)

// describe returns the first note of a job.
func describe(request dreamcore.GenerateRequest, lang dreamcore.Language) jobNote {
	n := jobNote{
		At: time.Now(), User: request.User, Project: request.Project, Prompt: request.Prompt, CommitMessage: request.CommitMessage,
		TestError: request.TestError, Detach: request.Detach, Language: lang, RequestID: request.RequestID,
		WebhookURL: request.WebhookURL,
	}
	if request.IdempotencyKey == "" {
		return n
	}
	// The key itself is kept nowhere: clients may use one that means something.
	key := sha256.Sum256([]byte("idempotency\x00" + string(request.User) + "\x00" + request.IdempotencyKey))
	request.IdempotencyKey, request.RequestID = "", ""
	raw, err := json.Marshal(request)
	if err != nil {
		panic("job: encode a request: " + err.Error()) // it has texts and a bool
	}
	digest := sha256.Sum256(raw)
	n.Key, n.Digest = key[:], digest[:]
	return n
}

// join returns the job that was submitted with the same key, or "" if there is
// none, and makes the caller its listener if it has not ended. It fails rather than
// make a second job. It must be called with submitting held.
func (s *Service) join(ctx context.Context, n jobNote) (string, error) {
	if n.Key == nil {
		return "", nil
	}
	row, ok := s.liveByKey(n)
	if !ok {
		var err error
		if row, ok, err = s.storedByKey(n); err != nil || !ok {
			return "", err
		}
	}
	if !bytes.Equal(row.Digest, n.Digest) {
		return "", &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Reason: ReasonKeyReused, Message: "Idempotency-Key was used for another request",
			Hint: "use a new key for each request, and the same one only to repeat it",
		}
	}
	s.attach(ctx, row.ID)
	return row.ID, nil
}

// storedByKey returns the row of a job that the index knows. A key that is not in it
// is new only if the index has every job.
func (s *Service) storedByKey(n jobNote) (row record.Row, ok bool, err error) {
	records := s.parts.Records
	if records == nil {
		return row, false, nil
	}
	fresh := records.Fresh() // before, as it may be completed, and after, as it may be replaced
	row, ok, err = records.ByKey(n.User, n.Key)
	if err == nil && !ok && (fresh || records.Fresh()) {
		err = &dreamcore.Error{Code: dreamcore.CodeBusy, Message: "the index of jobs is being made again: it may not know the key yet", Hint: "try again in a moment"}
	}
	return row, ok, err
}

func (s *Service) liveByKey(n jobNote) (record.Row, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.jobs {
		if l.row.User == n.User && bytes.Equal(l.row.Key, n.Key) {
			return l.row, true
		}
	}
	return record.Row{}, false
}

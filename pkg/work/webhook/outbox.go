package webhook

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// message is an event for one address. Its JSON form is a file of the outbox.
type message struct {
	ID       string              `json:"id"` // the webhook-id
	Event    string              `json:"event"`
	Job      string              `json:"job"`
	User     dreamcore.UserID    `json:"user"`
	Project  dreamcore.ProjectID `json:"project"`
	URL      string              `json:"url"`
	Created  time.Time           `json:"created"`
	Attempts int                 `json:"attempts"`
	Next     time.Time           `json:"next,omitzero"` // earliest time of the next attempt
	Body     json.RawMessage     `json:"body"`          // nil while the message waits in memory

	busy      bool // guarded by Service.mu: it is being sent
	forgotten bool // guarded by Service.mu: it was removed while it was being sent
}

const (
	extension   = ".json"
	fileMode    = 0o600
	maxFile     = maxBody + 6*maxURL + 4<<10 // bytes of a message on disk
	digestBytes = 16
)

// outbox holds the messages that wait, one file each. The name of a file follows
// from id and address, so that an event that is added twice is there once.
type outbox struct {
	root *os.Root
}

// openOutbox returns the outbox and its messages, the oldest first and without
// bodies.
func openOutbox(dir string, log *slog.Logger) (*outbox, []*message, error) {
	root, err := statefile.OpenDir(dir)
	if err != nil {
		return nil, nil, statefile.Error("open the outbox of webhooks", err)
	}
	o := &outbox{root}
	left, err := o.load(log)
	if err != nil {
		return nil, nil, errors.Join(statefile.Error("read the outbox of webhooks", err), root.Close())
	}
	return o, left, nil
}

func (o *outbox) load(log *slog.Logger) (left []*message, err error) {
	if err := statefile.Sweep(o.root); err != nil {
		return nil, err
	}
	names, err := statefile.Names(o.root, func(name string) bool { return strings.HasSuffix(name, extension) })
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		m, err := o.read(name)
		if err != nil {
			// It cannot be sent, now or ever.
			log.Error("a damaged webhook message is removed", "file", name, "error", err)
			if err := o.root.Remove(name); err != nil {
				return nil, err
			}
			continue
		}
		m.Body = nil
		if latest := time.Now().Add(longestPause); m.Next.After(latest) { // the clock went back
			m.Next = latest
		}
		left = append(left, m)
	}
	slices.SortStableFunc(left, func(a, b *message) int { return a.Created.Compare(b.Created) })
	return left, nil
}

func (m *message) name() string {
	sum := sha256.Sum256([]byte(m.ID + "\n" + m.URL))
	return hex.EncodeToString(sum[:digestBytes]) + extension
}

// create writes a new message. It reports false if it is there already.
func (o *outbox) create(m *message) (added bool, err error) {
	raw, err := json.Marshal(m)
	if err != nil {
		return false, fmt.Errorf("encode a webhook message: %w", err)
	}
	err = statefile.Create(o.root, m.name(), fileMode, statefile.Bytes(raw))
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, statefile.Error("write a webhook message", err)
	}
	return true, nil
}

// body returns the body of a message that waits.
func (o *outbox) body(m *message) (json.RawMessage, error) {
	full, err := o.read(m.name())
	if err != nil {
		return nil, err
	}
	return full.Body, nil
}

// update writes the attempts of a message.
func (o *outbox) update(m *message, body json.RawMessage) error {
	full := *m
	full.Body = body
	raw, err := json.Marshal(&full)
	if err != nil {
		return err
	}
	return statefile.Replace(o.root, m.name(), fileMode, statefile.Bytes(raw))
}

func (o *outbox) read(name string) (*message, error) {
	f, err := o.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	m := &message{}
	if len(raw) > maxFile {
		return nil, errors.New("it is too long")
	}
	if err := json.Unmarshal(raw, m); err != nil {
		return nil, err
	}
	if m.name() != name || m.Attempts < 0 || len(m.Body) == 0 {
		return nil, errors.New("it is not a message")
	}
	if _, err := parseURL(m.URL); err != nil {
		return nil, err
	}
	return m, nil
}

// remove removes a message. Without sync it may be there again after a power cut.
func (o *outbox) remove(m *message) error { return statefile.IgnoreMissing(o.root.Remove(m.name())) }

// sync makes removals durable.
func (o *outbox) sync() error {
	dir, err := o.root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (o *outbox) close() error { return o.root.Close() }

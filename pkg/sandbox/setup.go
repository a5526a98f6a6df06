package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// Setup is what the supervisor sets up before it starts any program.
type Setup struct {
	Relay   Relay    `json:"relay,omitzero"`
	Rlimits []Rlimit `json:"rlimits,omitempty"` // for an engine that cannot set them
}

// Args returns the arguments by which engines tell the supervisor its setup.
func (s Setup) Args() []string {
	if s.isEmpty() {
		return nil
	}
	b, _ := json.Marshal(s) // strings and numbers cannot fail
	return []string{string(b)}
}

func (s Setup) isEmpty() bool { return s.Relay == (Relay{}) && len(s.Rlimits) == 0 }

// decodeStrictly decodes one JSON value, and refuses members that it does not
// know: a limit that is misspelled must not be missing.
func decodeStrictly(text string, to any) error {
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("there is more after the value")
	}
	return nil
}

// ParseSetup is the inverse of Args. It refuses what Args does not return.
func ParseSetup(args []string) (s Setup, err error) {
	switch len(args) {
	case 0:
		return s, nil
	case 1:
		if err := decodeStrictly(args[0], &s); err != nil {
			return s, fmt.Errorf("argument %q: %w", args[0], err)
		}
		if s.isEmpty() {
			return s, fmt.Errorf("argument %q: it sets nothing up", args[0])
		}
		return s, s.Relay.validate()
	}
	return s, fmt.Errorf("unknown arguments %q", args)
}

// Rlimit is a limit, hard and soft, that the kernel enforces on every process of a
// sandbox.
type Rlimit struct {
	Name  string // as in "RLIMIT_NOFILE"
	Value uint64
}

// Relay makes a Unix socket of the host available to programs inside as a port,
// because most programs cannot use a Unix socket: PID 1 forwards each connection
// to the port on loopback to the socket. The zero value means no relay.
type Relay struct {
	Port   uint16 // on 127.0.0.1 inside; not a privileged one
	Socket string // absolute path inside, in a mount
}

func (r Relay) validate() error {
	if r == (Relay{}) {
		return nil
	}
	if r.Port < 1024 || !path.IsAbs(r.Socket) || path.Clean(r.Socket) != r.Socket || strings.ContainsRune(r.Socket, 0) {
		return fmt.Errorf("relay from port %d to %q: it needs a port from 1024 and a clean absolute path", r.Port, r.Socket)
	}
	return nil
}

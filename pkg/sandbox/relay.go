package sandbox

import (
	"fmt"
	"path"
	"strconv"
	"strings"
)

// Relay makes a Unix socket of the host available to programs inside as a port,
// because most programs cannot use a Unix socket: PID 1 forwards each connection
// to the port on loopback to the socket. The zero value means no relay.
type Relay struct {
	Port   uint16 // on 127.0.0.1 inside; not a privileged one
	Socket string // absolute path inside, in a mount
}

// relayRole is the supervisor's argument before the port and the socket.
const relayRole = "relay"

// Args returns the arguments by which engines tell the supervisor its relay.
func (r Relay) Args() []string {
	if r == (Relay{}) {
		return nil
	}
	return []string{relayRole, strconv.Itoa(int(r.Port)), r.Socket}
}

// ParseRelay is the inverse of Args.
func ParseRelay(args []string) (r Relay, err error) {
	if len(args) == 0 {
		return r, nil
	}
	if len(args) != 3 || args[0] != relayRole {
		return r, fmt.Errorf("unknown arguments %q", args)
	}
	port, err := strconv.ParseUint(args[1], 10, 16)
	if err != nil {
		return r, fmt.Errorf("port of the relay: %w", err)
	}
	r = Relay{Port: uint16(port), Socket: args[2]}
	return r, r.validate()
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

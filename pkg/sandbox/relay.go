package sandbox

import (
	"fmt"
	"path"
	"strconv"
	"strings"
)

// Relay makes a Unix socket of the host a port for the programs inside, most
// of which cannot speak to a socket: each connection with the port on loopback
// is copied to one with the socket, by PID 1. Zero is none.
type Relay struct {
	Port   uint16 // on 127.0.0.1 inside; not a privileged one
	Socket string // absolute path inside, of a socket that a mount brings
}

// relayRole is the argument of the supervisor before the port and the socket.
const relayRole = "relay"

// Args are the arguments by which engines tell the supervisor of its relay.
func (r Relay) Args() []string {
	if r == (Relay{}) {
		return nil
	}
	return []string{relayRole, strconv.Itoa(int(r.Port)), r.Socket}
}

// ParseRelay is the opposite of Args.
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

package probe

import (
	"context"
	"fmt"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// metadata tries the addresses at which clouds give credentials to their machines.
func metadata(ctx context.Context, n *notes, guests []*guest) error {
	return trySockets(ctx, guests[0], n, "tcp=169.254.169.254:80", "tcp=169.254.170.2:80", "tcp=100.100.100.200:80", "tcp=192.0.0.192:80", "tcp=[fd00:ec2::254]:80", "tcp=[::ffff:169.254.169.254]:80")
}

// dns tries name servers, and the resolver of the system.
func dns(ctx context.Context, n *notes, guests []*guest) error {
	for _, name := range []string{"localhost", "example.com", "metadata.google.internal"} {
		if err := n.try(ctx, guests[0], "name="+name, `getent hosts "$1" || echo "not found, exit code $?"`, name); err != nil {
			return err
		}
	}
	return trySockets(ctx, guests[0], n, "udp=8.8.8.8:53", "udp=1.1.1.1:53", "tcp=8.8.8.8:53", "tcp=127.0.0.53:53", "udp=169.254.169.253:53")
}

// rawSockets tries raw sockets, and those of virtual machines.
func rawSockets(ctx context.Context, n *notes, guests []*guest) error {
	return trySockets(ctx, guests[0], n, "packet", "icmp", "raw", "vsock")
}

// trySockets adds the result of each endpoint to the notes, after that of one that
// must work.
func trySockets(ctx context.Context, g *guest, n *notes, endpoints ...string) error {
	for _, endpoint := range append([]string{sandbox.Loopback}, endpoints...) {
		began := time.Now()
		seen, err := g.Reach(ctx, g.p.cfg.UID, g.p.cfg.GID, endpoint)
		if ctx.Err() != nil || err != nil {
			return fmt.Errorf("reach %s: %w", endpoint, ended(ctx, err))
		}
		n.see(began, endpoint, seen)
	}
	return nil
}

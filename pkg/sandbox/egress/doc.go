// Package egress is the way out of sandboxes to the few hosts that an operator
// allows. There is none unless one is allowed: a sandbox has no network, and
// with a proxy of this package it still has none, only a Unix socket at whose
// other end this package speaks HTTP as proxies do.
//
// What a sandbox may ask for is a host and a port that a rule names: a tunnel
// (CONNECT), or a plain http request. The name is resolved on the host, every
// address is checked after that, and exactly the checked address is dialled:
// a name that leads to the machine itself, to a private network or to the
// metadata service of a cloud is refused, however it is written and whatever it
// led to a moment ago. A tunnel must begin with a TLS hello that names the host
// it was opened to.
//
// For some hosts a secret of the operator is added to each request. The proxy
// then ends the TLS of the sandbox itself, with a certificate of its own that
// the sandbox trusts for those hosts alone, and speaks strict TLS to the host.
// The secret is never inside.
//
// Each socket belongs to one sandbox, and works only during a Session, which is
// one job's. Connections end with it.
//
// What this package cannot see is inside of tunnels: which Host header a client
// sends to a shared front end, for one. A host that is allowed is trusted with
// everything that the agent knows.
package egress

// Package egress lets sandboxes reach the few hosts that an operator allows.
// Without such a host there is no egress: a sandbox has no network. With egress
// it still has none, only a Unix socket on which this package acts as an HTTP
// proxy.
//
// A sandbox may request a host and port that a rule allows, as a tunnel (CONNECT)
// or by a plain http request. The name is resolved on the host, every resulting
// address is checked, and exactly the checked address is dialled. Names that lead
// to the host itself, to a private network or to a cloud's metadata service are
// refused, regardless of their spelling and of earlier lookups. A
// tunnel must begin with a TLS hello that names the host it was opened to.
//
// For some hosts a secret of the operator is added to each request. The proxy
// then terminates the sandbox's TLS itself, with a certificate that the sandbox
// trusts for those hosts only, and uses strict TLS to the host. The secret is
// never inside the sandbox.
//
// Each socket belongs to one sandbox, and works only during a Session, which
// belongs to one job. Connections end with the session.
//
// This package cannot see inside tunnels, for example which Host header a client
// sends to a shared front end. An allowed host must therefore be trusted with
// everything that the agent knows.
//
// The files: egress.go is the proxy, policy.go and target.go its rules, socket.go
// and session.go the lifetime of sockets and jobs, serve.go, tunnel.go and
// forward.go the requests, dial.go the connections to hosts (which package address
// checks), authority.go and credential.go the injection of secrets.
package egress

// Package gateway gives a sandbox that has neither a network nor a key access
// to the model API: it listens on one Unix socket per sandbox, checks the token
// of the running job, replaces it with the real key and streams the answer back.
//
// Everything that arrives through a socket is hostile, so no part of a request
// is forwarded by default: the gateway reads the request completely, within
// bounds, and builds a new one from the parts it knows (one of two paths, one
// query, six headers, the body). Answers of the API are treated the same way.
//
// The files divide the work like this:
//
//   - gateway.go, socket.go, grant.go: the gateway, its sockets, and the
//     tokens of jobs with what they may use.
//   - handler.go, header.go, body.go, reach.go, terms.go: reading and checking
//     a request.
//   - exchange.go, content.go, relay.go, message.go: sending it and relaying
//     the answer.
//   - meter.go, usage.go, spend.go, ledger.go: counting tokens, and what a
//     grant has used and how it failed.
//   - fault.go, apierror.go: interpreting errors of the API and creating our own.
//   - upstream.go, upstream_api.go, upstream_handler.go, encoding.go, scrub.go:
//     the model API over the network, or a model in this process.
//   - host.go: calls of the service itself, without a sandbox.
//
// A worked example, in the order of a job's life:
//
//	g := gateway.New(gateway.Config{Upstream: api, Logger: log})
//	defer g.Close(ctx)
//	s, err := g.Listen(dir)          // dir is mounted into the sandbox
//	defer s.Close()
//	gr := s.Grant(gateway.GrantOptions{Job: id})
//	… run the CLI with gr.Token() as its ANTHROPIC_API_KEY …
//	gr.Revoke()                      // waits for requests in flight
//	failure, usage := gr.Failure(), gr.Usage()
//
// Refusals and failures are answered in the API's error form
//
//	{"type":"error","error":{"type":"…","message":"…"}}
//
// with the header "x-should-retry: false" if a retry is pointless: without it
// the CLI retries ten times over three minutes.
package gateway

// Package gateway lets a sandbox without a network and without a key talk to
// the model API: it listens on one Unix socket per sandbox, checks the token
// of the running job, replaces it by the real key and streams the answer back.
//
// Everything that comes in through a socket is hostile. So nothing of such a
// request is passed on by default: the gateway reads it to its end within
// bounds and builds a new one from the parts it knows (a path of two, one
// query, six headers, the body). What the API answers is treated the same way.
//
// A worked example, in the order of a job's life:
//
//	g := gateway.New(gateway.Config{Upstream: api, Logger: log})
//	defer g.Close(ctx)
//	s, err := g.Listen(dir)          // dir is bound into the sandbox
//	defer s.Close()
//	gr := s.Grant(gateway.GrantOptions{Job: id})
//	… run the CLI with gr.Token() as its ANTHROPIC_API_KEY …
//	gr.Revoke()                      // waits for what is in flight
//	failure, usage := gr.Failure(), gr.Usage()
//
// A request answered with a refusal or a failure carries the API's error form
//
//	{"type":"error","error":{"type":"…","message":"…"}}
//
// and the header "x-should-retry: false" where another try is pointless: the
// CLI retries ten times over three minutes without it.
package gateway

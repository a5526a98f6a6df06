// Package upstream is where the model is: a list of upstreams that are tried
// in order, each of which speaks the Messages API, or is Google Vertex AI or
// Amazon Bedrock and is made to look like it. Credentials stay on the host;
// what is in a sandbox sees one plain Messages API, whoever answers.
//
//	list, err := upstream.New(entries, upstream.Options{Secret: store.Get, …})
//	defer list.Close()
//	gateway.SetUpstream(list)
//
// The next upstream is asked where one cannot be reached, does not answer in
// time, is overloaded (429, 529), broken (5xx), or refuses its credential
// (401, 402, 403: also an alarm for the operator), and only before any byte of
// an answer has passed. What is the request's own fault is answered as it is.
// One that fails is left out for a while, 2 s at first and 60 s at most; the
// first request after that tries it.
//
// The name of the model in an answer is the upstream's: it is what is paid for.
package upstream

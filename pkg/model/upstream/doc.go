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
// time, is overloaded (429, 503, 529), broken (other 5xx), or refuses its
// credential or account (401, 402, 403, no credit: also an alarm for the
// operator), and only before any byte of an answer has passed. An error with
// status 200 counts as the status that it stands for. What is the request's own
// fault is answered as it is. One that fails is left out for a while, 2 s at
// first and 60 s at most; the first request after that tries it.
//
// A cloud is sent no beta flag and no member of a body that it is not known to
// take: it would refuse the whole request.
//
// The name of the model in an answer is the upstream's: it is what is paid for.
package upstream

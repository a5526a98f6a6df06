// Package upstream connects the gateway to the model: a list of upstreams that
// are tried in order. Each one implements the Messages API, or is Google Vertex
// AI or Amazon Bedrock and is adapted to it. Credentials stay on the host; a
// sandbox always sees one plain Messages API.
//
//	list, err := upstream.New(entries, upstream.Options{Secret: store.Get, …})
//	defer list.Close()
//	gateway.SetUpstream(list)
//
// The next upstream is tried if one cannot be reached, does not answer in time,
// is overloaded (429, 503, 529), broken (other 5xx), or refuses its credential
// or account (401, 402, 403, no credit: also an alarm for the operator), and only
// before any byte of an answer has been forwarded. An error with status 200 counts
// as the status that it represents. Errors caused by the request itself are
// forwarded. A failing upstream is skipped for a while, 2 s at first and 60 s at
// most; the first request after that tries it again.
//
// Beta flags and body members that a cloud is not known to accept are not sent to
// it, since it would reject the whole request.
//
// The name of the model in an answer is the upstream's, which determines the
// price.
//
// The files divide the work like this: entry.go and credentials.go read the
// configuration and its secrets; list.go and outcome.go choose the upstream;
// vertex.go and tokens.go, bedrock.go and events.go adapt the two clouds; body.go
// and known.go rewrite request bodies for them.
package upstream

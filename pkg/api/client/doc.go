// Package client is a client of the HTTP contract, for this product and for the
// backend on Modal that it replaces. It parses every form of an address, bounds
// everything that a server can send, and reads streams to their terminal event.
//
// A Client sends the secret to one origin only and never puts it into an
// error. Errors are dreamcore.Errors with these codes:
//
//	CodeUnreachable   no answer: name, port, TLS, timeout, a gateway's 502 to 504
//	CodeUnauthorized  401 or 403
//	CodeInvalid       400 or 422 (ReasonKeyReused), and invalid options
//	CodeNotFound      404, 405 or 410 (ReasonExpired)
//	CodeConflict      409
//	CodeTooLarge      413
//	CodeBusy          429
//	CodeInternal      any other status, and an answer that violates the contract
//
// If the caller cancels the context, its cause is returned instead.
package client

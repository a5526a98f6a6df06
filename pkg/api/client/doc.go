// Package client speaks the HTTP contract to any server of it: this product,
// or the backend that it replaces. It knows every form of an address, bounds
// everything that a server can send, and reads streams to their terminal
// event.
//
// A Client sends the secret to one origin only and never puts it into an
// error. Errors are dreamcore.Errors with these codes:
//
//	CodeUnreachable   no answer: name, port, TLS, a limit of time, a gateway's 502 to 504
//	CodeUnauthorized  401 or 403
//	CodeInvalid       400, and bad options of our own
//	CodeNotFound      404 or 405
//	CodeConflict      409
//	CodeTooLarge      413
//	CodeBusy          429
//	CodeInternal      any other status, and an answer that is not the contract's
//
// The exception is a context that the caller cancelled: its cause is returned.
package client

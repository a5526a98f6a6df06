package dreamcore

import (
	"cmp"
	"errors"
	"fmt"
)

// Code classifies an error for programs: HTTP statuses, exit codes and tests
// depend on it, never on the message.
type Code string

// Codes of errors before a stream has started, and of operator commands.
const (
	CodeInvalid      Code = "INVALID"      // invalid input: HTTP 400, exit 2
	CodeUnauthorized Code = "UNAUTHORIZED" // missing or wrong secret: HTTP 401, exit 4
	CodeNotFound     Code = "NOT_FOUND"    // HTTP 404
	CodeConflict     Code = "CONFLICT"     // the user or the state directory is busy: HTTP 409
	CodeBusy         Code = "BUSY"         // the queue is full: HTTP 429
	CodeBlocked      Code = "BLOCKED"      // the operator has blocked the user: HTTP 403
	CodeMoving       Code = "USER_MOVING"  // the user is being moved, or lives in another cell: HTTP 503
	CodeTooLarge     Code = "TOO_LARGE"    // a body or field over its limit: HTTP 413
	CodeUnreachable  Code = "UNREACHABLE"  // an endpoint did not answer: exit 3
	CodeSetup        Code = "SETUP"        // the machine or the state directory is not ready
	CodeInternal     Code = "INTERNAL"     // everything else: HTTP 500
)

// Reason names what failed for programs, more closely than a Code does:
// "deploy.occupied". The package that returns it declares it; the command line
// has a table from reasons to its own commands and flags, and adds them to the
// hint.
type Reason string

// Error is an error that an operator or a client may see. Message is the
// text for them, Hint names what to do next, Err is the cause, which goes
// to the log only. Reason is optional.
type Error struct {
	Code    Code
	Reason  Reason
	Message string
	Hint    string
	Err     error
}

func (e *Error) Error() string {
	if e.Err == nil {
		return e.Message
	}
	return fmt.Sprintf("%s: %v", e.Message, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// CodeOf returns the code of the first Error in err's chain, or CodeInternal.
func CodeOf(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return CodeInternal
}

// ReasonOf returns the first reason in err's chain, or "".
func ReasonOf(err error) Reason { return first(err, func(e *Error) Reason { return e.Reason }) }

// HintOf returns the first hint in err's chain, or "".
func HintOf(err error) string { return first(err, func(e *Error) string { return e.Hint }) }

// first returns the first text of the Errors in err's chain that is not empty.
func first[T ~string](err error, text func(*Error) T) T {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return ""
	}
	return cmp.Or(text(e), first(e.Err, text))
}

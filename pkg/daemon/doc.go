// Package daemon opens the state directory, builds the parts of the service,
// serves, reloads settings, and closes everything in order. It is the only
// package besides the command line that knows the settings.
//
// There are three levels, each opened with the one before it and closed before
// it. State (state.go, secrets.go, model.go) is the state directory without a
// sandbox. Machine adds what runs games: sandboxes, the model gateway, jobs.
// Service adds what other programs talk to: the HTTP listener, previews and the
// control socket. Each Open or Start returns one value with one Close; after an
// error there is nothing to close.
package daemon

// Package dreamcore defines the domain types: identifiers, the request for a
// game, the events of its stream, and the codes and messages of errors and
// failures. It does no I/O and imports no other package of the project.
package dreamcore

// AppName is the name reported by /health and used for state directories,
// sockets and systemd units.
const AppName = "dreamcore"

// Package dreamcore holds the words of the domain: identifiers, the request
// for a game, the events of its stream, and the codes and sentences of what
// can go wrong. It does no I/O and imports no other package of the project.
package dreamcore

// AppName is the name that /health reports and that state directories,
// sockets and units carry.
const AppName = "dreamcore"

// Package daemon opens the state directory, builds the parts of the service,
// serves, reloads settings, and closes everything in order. It is the only
// package besides the command line that knows the settings.
//
// There are four levels. Each is opened with a lower one and closed before it:
//
//   - State (state.go, secrets.go) is the state directory: settings, secrets,
//     volumes.
//   - Model (model.go) is the access to the model: gateway, ledger, audit log.
//   - Machine (machine.go, root.go, engine.go, egress.go) runs games: sandboxes,
//     jobs, checks. generate.go runs one job in this process.
//   - Service (service.go) is what other programs talk to: the HTTP listener,
//     previews (previews.go) and the control socket (sandboxes.go). It becomes
//     and stays ready (ready.go), reloads settings (watch.go) and removes old logs.
//
// Every Open or Start returns one value with one Close; after an error there is
// nothing to close. signal.go, resources.go and cause.go are about the process:
// its signals, its memory and processors, and the causes of failures in its log.
package daemon

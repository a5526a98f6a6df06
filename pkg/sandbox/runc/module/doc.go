// Package module pins runc. It is a module of its own because runc and gVisor
// need different versions of the runtime specification, and because runc needs
// cgo, which breaks gVisor: the two cannot be one program. scripts/build.sh
// builds it.
package module

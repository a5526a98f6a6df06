// Package tree reads, writes, copies and removes directory trees that a hostile
// program may be changing at the same time.
//
// Names, links, FIFOs, sizes and the timing of every change are chosen by the
// program in a sandbox. A path is therefore opened one element at a time below
// an os.Root, and each element must still be what it was when it was looked at:
// no link is followed, not even one that stays inside the tree, and opening
// never waits for a FIFO. Walks are bounded by the limits of package dreamcore.
//
//	open.go     paths, files and directories
//	make.go     directories with a given owner and mode
//	walk.go     Walk, for copies of a tree, and Files, for what a project shows
//	digest.go   a hash of a whole tree
//	fill.go     Filler, which writes a tree into an empty directory
//	put.go      single files that are replaced atomically
//	link.go     a copy of a tree made of hard links
//	usage.go    the space and the names that a tree takes
//	remove.go   removal with few file descriptors at any depth
//	skills.go   the link that a running job adds to a project
//	errors.go   errors of the file system with codes and hints
package tree

import "github.com/notef-neighbor/dreamcore/pkg/dreamcore"

// Limits of a tree.
const (
	MaxEntries   = dreamcore.MaxTreeNames // names of any kind
	MaxDepth     = dreamcore.MaxTreeDepth // nested directories; deeper ones are left out
	MaxCopyBytes = 4 << 30                // of one copy: a sparse file costs its sandbox nothing and is copied in full
)

const (
	privateMode = 0o700
	sharedMode  = 0o755
	fileMode    = 0o600
)

// Owner is the user and group that files are given to.
type Owner struct{ UID, GID int }

package dreamcore

import "fmt"

// Limits on the file tree of one project. A sandbox writes that tree, and
// everything that the host derives from it (walks, versions, their index, lists,
// diffs, archives) uses host memory in proportion to these numbers, not to the
// bytes that count against the user's quota: an empty file with a long path does
// not count at all.
const (
	MaxNameBytes = 255     // of one name
	MaxPathBytes = 4096    // of one path, relative to the project; also of a link's target
	MaxTreeDepth = 64      // nested directories
	MaxTreeNames = 100_000 // names of any kind
	MaxTreePaths = 8 << 20 // bytes of all paths together
)

// Reasons why TreeMeter refuses an entry.
var (
	nameTooLong  = fmt.Sprintf("its name is too long: more than %d bytes", MaxNameBytes)
	pathTooLong  = fmt.Sprintf("its path is too long: more than %d bytes", MaxPathBytes)
	pathsTooLong = fmt.Sprintf("the paths of the project are too long: more than %d MiB together", MaxTreePaths>>20)
)

// TreeMeter counts the names and paths of one walk through a tree. The zero
// value is ready for use. It is not safe for concurrent use.
type TreeMeter struct{ paths int }

// Add counts the entry name in a directory whose path has dir bytes (0 for the
// top). It returns why the entry exceeds a limit, or "" if it is within all of
// them. A rejected entry is not counted: a shorter one may still fit. The caller
// must not enter a rejected directory.
func (m *TreeMeter) Add(dir int, name string) (reason string) {
	length := len(name)
	if dir > 0 {
		length += dir + 1
	}
	switch {
	case len(name) > MaxNameBytes:
		return nameTooLong
	case length > MaxPathBytes:
		return pathTooLong
	case m.paths+length > MaxTreePaths:
		return pathsTooLong
	}
	m.paths += length
	return ""
}

package dreamcore

import "fmt"

// Limits on the tree of files of one project. A sandbox writes that tree, and
// everything that the host derives from it (walks, versions, their index, lists,
// diffs, archives) costs the host memory in proportion to these numbers, not to
// the bytes that the user's quota counts: an empty file with a long path costs
// the quota nothing.
const (
	MaxNameBytes = 255     // of one name
	MaxPathBytes = 4096    // of one path, relative to the project; also of the target of a link
	MaxTreeDepth = 64      // directories inside each other
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
// value is ready for use. It is for one goroutine.
type TreeMeter struct{ paths int }

// Add counts the entry name in a directory whose path has dir bytes (0 for the
// top). It returns why the entry is beyond a limit, or "" if it is within all of
// them. An entry that is refused is not counted: a shorter one may still fit.
// A directory that is refused must not be entered.
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

package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// ErrNotPlain reports that a path is not the directory or regular file that it
// should be: it is a link or a FIFO, or it was replaced while it was opened.
var ErrNotPlain = errors.New("not a plain file or directory")

// ErrTooLarge reports a copy that exceeds its limit of bytes.
var ErrTooLarge = errors.New("too many bytes")

var (
	errTooManyNames = &dreamcore.Error{
		Code: dreamcore.CodeTooLarge, Message: fmt.Sprintf("the project has more than %d files", MaxEntries),
		Hint: "remove what is not part of the game, such as node_modules",
	}
	errTooDeep = &dreamcore.Error{
		Code: dreamcore.CodeTooLarge, Message: "the project has too many files or nested directories to be changed",
		Hint: "remove what is not part of the game, such as node_modules",
	}
	errTooManyLinks = &dreamcore.Error{
		Code: dreamcore.CodeTooLarge, Message: "a file of the project has too many hard links for the project to be changed",
		Hint: "remove the links that are not needed",
	}
)

// DiskError is statefile.Error for a tree, whose files belong to the sandbox's user
// and in which links are not followed.
func DiskError(action string, err error) error {
	e := statefile.Error(action, err)
	switch {
	case e.Reason == statefile.ReasonNotWritable:
		e.Hint = "the state directory must be writable, and giving files to the sandbox's user needs root: run as root"
	case errors.Is(err, ErrNotPlain):
		e.Code, e.Hint = dreamcore.CodeSetup, "symbolic links are not followed there: put a real directory in its place (mount --bind attaches one that is elsewhere)"
	}
	return e
}

// FileError returns the error that a client gets for a file it asked for.
// Everything that a sandbox can arrange means that the file does not exist; all
// other errors are the host's fault.
func FileError(err error) error {
	if isPathFault(err) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENXIO) {
		return &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "File not found", Hint: "list the files of the project with list_files", Err: err}
	}
	return DiskError("open the file", err)
}

const maxQuoted = 200 // bytes of a path in a message

// BadPath returns the error for a path that cannot name a file of a project.
func BadPath(name string) error {
	return &dreamcore.Error{
		Code: dreamcore.CodeInvalid, Message: "Invalid file path: " + strings.ToValidUTF8(name[:min(len(name), maxQuoted)], "\uFFFD"),
		Hint: "use a path inside the project, such as index.html or assets/a.png, once, and not through a link",
	}
}

// PathError returns BadPath(name) if err means that name cannot be a file, and
// err itself otherwise.
func PathError(name string, err error) error {
	if isPathFault(err) {
		return BadPath(name)
	}
	return err
}

// isPathFault reports whether the path is at fault, and not the disk.
func isPathFault(err error) bool {
	for _, cause := range []error{ErrNotPlain, syscall.ENOTDIR, syscall.ELOOP, syscall.ENAMETOOLONG, syscall.EISDIR, syscall.EINVAL} {
		if errors.Is(err, cause) {
			return true
		}
	}
	return false
}

// fillError is PathError for writing into a tree: an existing name is at fault
// too, and a copy that is too large is an error of the project.
func fillError(name string, err error) error {
	if errors.Is(err, fs.ErrExist) {
		return BadPath(name)
	}
	return tooLarge(PathError(name, err))
}

func tooLarge(err error) error {
	if errors.Is(err, ErrTooLarge) {
		return &dreamcore.Error{Code: dreamcore.CodeTooLarge, Message: "the project is larger than 4 GiB", Hint: "remove what is not part of the game", Err: err}
	}
	return err
}

// IgnoreMissing returns err, or nil if it reports a missing file.
func IgnoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// ListError returns the error for a directory whose names cannot be read.
func ListError(err error) error {
	if errors.Is(err, errTooManyNames) {
		return err
	}
	return DiskError("list a directory", err)
}

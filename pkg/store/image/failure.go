package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// flaw is an error that an image or a reference causes, not this machine or the
// network.
type flaw string

func (f flaw) Error() string { return string(f) }

func flawf(format string, args ...any) error { return flaw(fmt.Sprintf(format, args...)) }

// excess is the error for an image that exceeds a limit.
type excess string

func (e excess) Error() string { return string(e) }

// errNotHere is the error for an image that is not in the Store.
var errNotHere = errors.New("the image is not on this machine")

// errStalled ends a request to a registry that stopped sending.
var errStalled = errors.New("the registry has stopped answering")

// errPlain is the error for a registry without TLS: its answers could be forged,
// and credentials could be read.
var errPlain = errors.New("the registry, or a server that it redirects to, has no TLS")

const (
	hintOther   = "the image is damaged or hostile: use another one"
	hintSmaller = "use a smaller image, or unpack it yourself into a directory and use that"
	hintOffline = "check the network and the name of the registry; images that are here need no network: dreamcore image list"
)

// part adds the part of an image that caused an error.
func part(where string, err error) error { return fmt.Errorf("%s: %w", where, err) }

// entryFailed adds the name of an entry, which may be as long as the layer.
func entryFailed(name string, err error) error {
	return part("entry "+strconv.Quote(shorten(name)), err)
}

func shorten(s string) string {
	const most = 200
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

// pullError returns the error of a failed pull for the operator.
func pullError(ctx context.Context, r reference, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("pull %s: %w", r, context.Cause(ctx))
	}
	if _, ok := errors.AsType[*dreamcore.Error](err); ok {
		return fmt.Errorf("pull %s: %w", r, err)
	}
	e := &dreamcore.Error{Code: dreamcore.CodeSetup, Message: "cannot pull " + r.String(), Err: err}
	_, tooLarge := errors.AsType[excess](err)
	_, flawed := errors.AsType[flaw](err)
	switch {
	case tooLarge:
		e.Hint = hintSmaller
	case flawed:
		e.Hint = hintOther
	case diskHint(err) != "":
		e.Hint = diskHint(err)
	case r.kind != kindRegistry:
		e.Hint = "check that the files of the image can be read: " + r.path
	case onDisk(err):
		return diskError("pull "+r.String(), err)
	default:
		registryError(e, r, err)
	}
	return e
}

// registryError sets the code and the hint for a registry's answer or silence.
func registryError(e *dreamcore.Error, r reference, err error) {
	host := r.name.Context().RegistryStr()
	e.Code, e.Hint = dreamcore.CodeUnreachable, hintOffline
	if errors.Is(err, errPlain) {
		e.Code = dreamcore.CodeSetup
		e.Hint = "give the registry a certificate, or copy the image as a file: docker save IMAGE > FILE.tar, then " + ArchivePrefix + "FILE.tar"
		return
	}
	answer, ok := errors.AsType[*transport.Error](err)
	if !ok {
		if _, ok := errors.AsType[net.Error](err); !ok && !errors.Is(err, errStalled) {
			e.Hint = "try again; if it fails again, check the registry " + host + " with another client"
		}
		return
	}
	switch {
	case answer.StatusCode == http.StatusUnauthorized, answer.StatusCode == http.StatusForbidden:
		// Registries also answer this for images that do not exist.
		e.Code = dreamcore.CodeUnauthorized
		e.Hint = "check the name of the image; for a private one run: docker login " + host
	case answer.StatusCode == http.StatusNotFound:
		e.Code, e.Hint = dreamcore.CodeNotFound, "check the name and the tag of the image"
	case answer.StatusCode == http.StatusTooManyRequests:
		e.Code, e.Hint = dreamcore.CodeBusy, "wait and try again; with credentials registries allow more: docker login "+host
	default:
		e.Hint = "the registry " + host + " does not work at the moment: try again later"
	}
}

// onDisk reports whether err comes from a file and not from the network.
func onDisk(err error) bool {
	_, file := errors.AsType[*fs.PathError](err)
	_, link := errors.AsType[*os.LinkError](err)
	return file || link
}

// diskError adds the hint that fits an error of the store's files.
func diskError(action string, err error) error {
	hint := diskHint(err)
	if hint == "" {
		hint = "check the directory of images below the state directory with ls -ld and df -h"
	}
	return &dreamcore.Error{Code: dreamcore.CodeSetup, Message: "cannot " + action, Err: err, Hint: hint}
}

// diskHint returns the hint for an error of the file system, "" for other errors.
func diskHint(err error) string {
	switch {
	case statefile.IsFull(err):
		return "the disk of the state directory is full: free space there (dreamcore image prune --all removes images that are not in use)"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return "the state directory must be writable, and keeping the owners of files needs root: run as root, or choose another directory with --state DIR"
	}
	return ""
}

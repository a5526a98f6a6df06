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
)

// flaw is what is wrong with an image or a reference, as opposed to this
// machine or the network.
type flaw string

func (f flaw) Error() string { return string(f) }

func flawf(format string, args ...any) error { return flaw(fmt.Sprintf(format, args...)) }

// excess says that an image is larger than a limit allows.
type excess string

func (e excess) Error() string { return string(e) }

// errNotHere says that an image is not in the Store.
var errNotHere = errors.New("the image is not on this machine")

// errStalled ends a request to a registry that has gone silent.
var errStalled = errors.New("the registry has stopped answering")

// errPlain refuses to speak to a registry without TLS: what it answers for a
// tag could come from anybody, and credentials would be readable.
var errPlain = errors.New("the registry, or a place it points to, has no TLS")

const (
	hintOther   = "the image is broken or made to do harm: use another one"
	hintSmaller = "use a smaller image, or unpack it yourself into a directory and name that"
	hintOffline = "check the network and the name of the registry; an image that is here already needs none: dreamcore image list"
)

// part says which part of an image an error is about.
func part(where string, err error) error { return fmt.Errorf("%s: %w", where, err) }

// entryFailed says which entry of a layer. Names may be as long as the layer:
// some of it tells enough.
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

// pullError is what an operator is told about a pull that failed.
func pullError(ctx context.Context, r reference, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("pull %s: %w", r, context.Cause(ctx))
	}
	if _, ok := errors.AsType[*dreamcore.Error](err); ok {
		return fmt.Errorf("pull %s: %w", r, err)
	}
	e := &dreamcore.Error{Code: dreamcore.CodeSetup, Message: "cannot pull " + r.String(), Err: err}
	if _, ok := errors.AsType[excess](err); ok {
		e.Hint = hintSmaller
		return e
	}
	if _, ok := errors.AsType[flaw](err); ok {
		e.Hint = hintOther
		return e
	}
	if hint := diskHint(err); hint != "" {
		e.Hint = hint
		return e
	}
	if r.kind == kindRegistry {
		if onDisk(err) {
			return diskError("pull "+r.String(), err)
		}
		registryError(e, r, err)
		return e
	}
	e.Hint = "check that the files of the image can be read: " + r.path
	return e
}

// registryError fills in what a registry's answer, or its silence, means.
func registryError(e *dreamcore.Error, r reference, err error) {
	host := r.name.Context().RegistryStr()
	e.Code, e.Hint = dreamcore.CodeUnreachable, hintOffline
	if errors.Is(err, errPlain) {
		e.Code = dreamcore.CodeSetup
		e.Hint = "give the registry a certificate, or carry the image over: docker save IMAGE > FILE.tar, then " + ArchivePrefix + "FILE.tar"
		return
	}
	answer, ok := errors.AsType[*transport.Error](err)
	if !ok {
		if _, ok := errors.AsType[net.Error](err); !ok && !errors.Is(err, errStalled) {
			e.Hint = "try again; if it stays so, check the registry " + host + " with another client"
		}
		return
	}
	switch {
	case answer.StatusCode == http.StatusUnauthorized, answer.StatusCode == http.StatusForbidden:
		// Registries answer so for images that are not there, too.
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

// onDisk tells whether err is one of a file and not of the network.
func onDisk(err error) bool {
	_, file := errors.AsType[*fs.PathError](err)
	_, link := errors.AsType[*os.LinkError](err)
	return file || link
}

// diskError gives an error of the store's own files the hint that fits it.
func diskError(action string, err error) error {
	hint := diskHint(err)
	if hint == "" {
		hint = "check the directory of images below the state directory with ls -ld and df -h"
	}
	return &dreamcore.Error{Code: dreamcore.CodeSetup, Message: "cannot " + action, Err: err, Hint: hint}
}

// diskHint says what to do about an error of the file system, "" where err is
// none.
func diskHint(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "the disk of the state directory is full: free space there (dreamcore image prune --all removes images that are not in use)"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return "the state directory must be writable, and keeping the owners of files needs root: run as root, or choose another directory with --state DIR"
	}
	return ""
}

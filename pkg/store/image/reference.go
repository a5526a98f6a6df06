package image

import (
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/pattern"
)

// Prefixes of references to images on this machine.
const (
	LayoutPrefix  = "oci-layout:"     // followed by a directory, and @sha256:… if it holds several images
	ArchivePrefix = "docker-archive:" // followed by a tar file of docker save
)

// maxReference bounds a reference: a path and its prefix.
const maxReference = 5000

type kind int

const (
	kindRegistry kind = iota
	kindLayout
	kindArchive
	kindDigest // an image in the store
)

// reference is a parsed reference of an image.
type reference struct {
	kind   kind
	text   string         // canonical
	name   name.Reference // of kindRegistry
	path   string         // of a layout or an archive, absolute
	digest string         // "sha256:…"; may be empty
}

// String returns the reference in its short form.
func (r reference) String() string { return familiar(r.text) }

var digestForm = pattern.New(`^sha256:[0-9a-f]{64}$`)

// IsDirectory reports whether ref is the path of a directory and not the
// reference of an image: it begins with "/", "./" or "../", or is "." or "..".
// Directories are used in place, without the store.
func IsDirectory(ref string) bool {
	return ref == "." || ref == ".." || strings.HasPrefix(ref, "/") || strings.HasPrefix(ref, "./") || strings.HasPrefix(ref, "../")
}

// Absolute returns ref with its path, if it has one, made absolute. ref may be the
// path of a directory. CodeInvalid: ref is not a reference.
func Absolute(ref string) (string, error) {
	if IsDirectory(ref) && len(ref) <= maxReference && !strings.ContainsRune(ref, 0) {
		abs, err := filepath.Abs(ref)
		if err != nil {
			return "", badReference(ref, err.Error())
		}
		return abs, nil
	}
	r, err := parse(ref)
	if err != nil {
		return "", err
	}
	if r.path != "" {
		return r.text, nil
	}
	return ref, nil
}

// IsAbsolute reports whether ref means the same in every working directory: it has
// no path, or an absolute one.
func IsAbsolute(ref string) bool {
	for _, prefix := range []string{LayoutPrefix, ArchivePrefix} {
		if path, ok := strings.CutPrefix(ref, prefix); ok {
			return filepath.IsAbs(path)
		}
	}
	return !IsDirectory(ref) || filepath.IsAbs(ref)
}

// Pinned returns ref with the digest of img, for which it stands:
// NAME:TAG@sha256:….
func Pinned(ref string, img Image) string {
	name, _, _ := strings.Cut(ref, "@sha256:") // possibly the digest of an index
	if digestForm().MatchString(ref) {
		return img.Digest
	}
	return name + "@" + img.Digest
}

func parse(ref string) (reference, error) {
	switch {
	case ref == "":
		return reference{}, badReference(ref, "it is empty")
	case len(ref) > maxReference:
		return reference{}, badReference(ref[:64]+"…", "it is too long")
	case strings.ContainsRune(ref, 0):
		return reference{}, badReference(ref, "it contains a NUL byte")
	case IsDirectory(ref):
		return reference{}, &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Message: "not an image reference: " + ref, Err: flaw("a directory is used in place and not pulled"),
			Hint: "start sandboxes from it with --image " + ref,
		}
	case digestForm().MatchString(ref):
		return reference{kind: kindDigest, text: ref, digest: ref}, nil
	}
	if dir, ok := strings.CutPrefix(ref, LayoutPrefix); ok {
		dir, digest, err := cutDigest(dir)
		if err != nil {
			return reference{}, err
		}
		return local(kindLayout, LayoutPrefix, dir, digest)
	}
	if file, ok := strings.CutPrefix(ref, ArchivePrefix); ok {
		return local(kindArchive, ArchivePrefix, file, "")
	}
	if strings.HasPrefix(ref, "sha256:") {
		return reference{}, badReference(ref, "it is not sha256: and 64 hex digits")
	}
	n, err := name.ParseReference(ref)
	if err != nil {
		return reference{}, badReference(ref, err.Error())
	}
	// The name becomes part of a URL.
	for element := range strings.SplitSeq(n.Context().RepositoryStr(), "/") {
		if strings.Trim(element, ".") == "" {
			return reference{}, badReference(ref, "an element of its name is empty or only dots")
		}
	}
	r := reference{kind: kindRegistry, text: n.Name(), name: n}
	if d, ok := n.(name.Digest); ok {
		if !digestForm().MatchString(d.DigestStr()) {
			return reference{}, badReference(ref, "its digest is not SHA-256")
		}
		r.digest = d.DigestStr()
	}
	return r, nil
}

func cutDigest(dir string) (path, digest string, err error) {
	i := strings.LastIndex(dir, "@sha256:")
	if i < 0 {
		return dir, "", nil
	}
	if digest = dir[i+1:]; !digestForm().MatchString(digest) {
		return "", "", badReference(LayoutPrefix+dir, "its digest is not sha256: and 64 hex digits")
	}
	return dir[:i], digest, nil
}

func local(k kind, prefix, path, digest string) (reference, error) {
	if path == "" {
		return reference{}, badReference(prefix, "it names no file")
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return reference{}, badReference(prefix+path, err.Error())
	}
	text := prefix + abs
	if digest != "" {
		text += "@" + digest
	}
	return reference{kind: k, text: text, path: abs, digest: digest}, nil
}

func badReference(ref, why string) error {
	return &dreamcore.Error{
		Code: dreamcore.CodeInvalid, Message: "not an image reference: " + ref, Err: flaw(why),
		Hint: "give an image of a registry (debian:12, HOST/NAME@sha256:…), " + LayoutPrefix + "DIR or " + ArchivePrefix + "FILE.tar",
	}
}

// familiar returns the short form of a reference, without the default registry.
func familiar(text string) string {
	short, ok := strings.CutPrefix(text, name.DefaultRegistry+"/")
	if !ok {
		return text
	}
	for _, s := range []string{strings.TrimPrefix(short, "library/"), short} {
		if r, err := parse(s); err == nil && r.text == text {
			return s
		}
	}
	return text
}

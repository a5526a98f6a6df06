package image

import (
	"path/filepath"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Prefixes of references to images on this machine.
const (
	LayoutPrefix  = "oci-layout:"     // and a directory, with @sha256:… where it holds several images
	ArchivePrefix = "docker-archive:" // and a tar file that docker save wrote
)

// maxReference bounds a reference: a path, and some.
const maxReference = 5000

type kind int

const (
	kindRegistry kind = iota
	kindLayout
	kindArchive
	kindDigest // an image that is here
)

// reference says which image is meant.
type reference struct {
	kind   kind
	text   string         // canonical
	name   name.Reference // of kindRegistry
	path   string         // of a layout or an archive, absolute
	digest string         // "sha256:…"; "" where none is given
}

// String is the reference as people write it.
func (r reference) String() string { return familiar(r.text) }

// fixed tells that the reference means the same image for ever.
func (r reference) fixed() bool { return r.digest != "" }

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// IsDirectory tells whether ref is the path of a directory and not the
// reference of an image: it begins with "/", "./" or "../", or is "." or "..".
// Directories are used as they are and not kept here.
func IsDirectory(ref string) bool {
	return ref == "." || ref == ".." || strings.HasPrefix(ref, "/") || strings.HasPrefix(ref, "./") || strings.HasPrefix(ref, "../")
}

// Absolute returns ref with the path in it made absolute, so that it means the
// same in every directory. The path of a directory is a ref here, too.
// CodeInvalid: ref is none.
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

// IsAbsolute tells whether ref means the same in every directory: where it has
// a path, that is absolute.
func IsAbsolute(ref string) bool {
	for _, prefix := range []string{LayoutPrefix, ArchivePrefix} {
		if path, ok := strings.CutPrefix(ref, prefix); ok {
			return filepath.IsAbs(path)
		}
	}
	return !IsDirectory(ref) || filepath.IsAbs(ref)
}

// Pinned names the image that ref stands for by its digest too:
// NAME:TAG@sha256:….
func Pinned(ref string, img Image) string {
	name, _, _ := strings.Cut(ref, "@sha256:") // that of an index, maybe
	if digestForm.MatchString(ref) {
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
		return reference{}, badReference(ref, "it has a NUL byte")
	case IsDirectory(ref):
		return reference{}, &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Message: "no reference of an image: " + ref, Err: flaw("a directory is used as it is and is not pulled"),
			Hint: "name it where sandboxes are started from it, with --image " + ref,
		}
	case digestForm.MatchString(ref):
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
	// The name becomes part of an address.
	for element := range strings.SplitSeq(n.Context().RepositoryStr(), "/") {
		if strings.Trim(element, ".") == "" {
			return reference{}, badReference(ref, "an element of its name is empty or only dots")
		}
	}
	r := reference{kind: kindRegistry, text: n.Name(), name: n}
	if d, ok := n.(name.Digest); ok {
		if !digestForm.MatchString(d.DigestStr()) {
			return reference{}, badReference(ref, "its digest is none of SHA-256")
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
	if digest = dir[i+1:]; !digestForm.MatchString(digest) {
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
		Code: dreamcore.CodeInvalid, Message: "no reference of an image: " + ref, Err: flaw(why),
		Hint: "name an image of a registry (debian:12, HOST/NAME@sha256:…), " + LayoutPrefix + "DIR or " + ArchivePrefix + "FILE.tar",
	}
}

// familiar leaves out what stands for itself in the name of an image.
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

package image

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// dirName returns the name of the directory of an image.
func dirName(digest string) string { return strings.Replace(digest, ":", "-", 1) }

// digestOf returns the digest of the image in a directory, or "" if the directory
// does not hold an image.
func digestOf(dir string) string {
	digest := strings.Replace(dir, "-", ":", 1)
	if !digestForm().MatchString(digest) {
		return ""
	}
	return digest
}

// Lookup returns the image that ref stands for, without using the network: the
// one of its last pull, or the one with that digest. CodeInvalid: ref is not a
// reference. CodeNotFound: the image is not here.
func (s *Store) Lookup(ref string) (Image, error) {
	r, err := parse(ref)
	if err != nil {
		return Image{}, err
	}
	img, err := s.lookup(r)
	if err != nil {
		return Image{}, err
	}
	img.References, err = s.referencesOf(img.Digest)
	return img, err
}

func (s *Store) lookup(r reference) (Image, error) {
	// The digest in a reference may be that of an index, which stands for another
	// image.
	saved, err := s.readRef(r.text)
	if err != nil && !errors.Is(err, errNotHere) {
		return Image{}, err
	}
	for _, digest := range []string{saved, r.digest} {
		if digest == "" {
			continue
		}
		if img, err := s.image(digest); !errors.Is(err, errNotHere) {
			return img, err
		}
	}
	hint := "run: dreamcore image pull " + r.String()
	if r.kind == kindDigest {
		hint = "list the images that are here: dreamcore image list"
	}
	return Image{}, notHere(r.String(), hint)
}

// image returns one image without its references. errNotHere: there is no
// complete image.
func (s *Store) image(digest string) (Image, error) {
	dir := dirName(digest)
	raw, err := s.read(filepath.Join(dir, noteFile))
	if err != nil {
		return Image{}, err
	}
	var n note
	if err := json.Unmarshal(raw, &n); err != nil || n.Digest != digest {
		return Image{}, errNotHere
	}
	lock, err := s.root.Stat(filepath.Join(dir, lockFile))
	if errors.Is(err, fs.ErrNotExist) {
		return Image{}, errNotHere
	}
	if err != nil {
		return Image{}, diskError("examine the image", err)
	}
	inUse, err := s.inUse(dir)
	if err != nil {
		return Image{}, err
	}
	return Image{
		Digest: digest, Size: n.Size, Entries: n.Entries, Skipped: n.Skipped,
		Created: n.Created, LastUsed: lock.ModTime(), InUse: inUse,
	}, nil
}

// read returns the content of a small file of the store. errNotHere: the file
// does not exist.
func (s *Store) read(name string) ([]byte, error) {
	f, err := s.root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNotHere
	}
	if err != nil {
		return nil, diskError("read "+name, err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxDocument))
	if err != nil {
		return nil, diskError("read "+name, err)
	}
	return raw, nil
}

// List returns the images that are here, the last used first.
func (s *Store) List() ([]Image, error) {
	if s.root == nil {
		return []Image{}, nil
	}
	refs, err := s.references()
	if err != nil {
		return nil, err
	}
	dirs, err := s.dirs()
	if err != nil {
		return nil, err
	}
	images := []Image{}
	for _, dir := range dirs {
		digest := digestOf(dir)
		img, err := s.image(digest)
		if errors.Is(err, errNotHere) {
			continue // removed meanwhile, or broken: Prune removes it
		}
		if err != nil {
			return nil, err
		}
		img.References = refs[digest]
		images = append(images, img)
	}
	slices.SortFunc(images, func(a, b Image) int {
		return cmp.Or(b.LastUsed.Compare(a.LastUsed), strings.Compare(a.Digest, b.Digest))
	})
	return images, nil
}

// dirs returns the sorted names of the directories of images.
func (s *Store) dirs() ([]string, error) {
	names, err := statefile.Names(s.root, func(name string) bool { return digestOf(name) != "" })
	if err != nil {
		return nil, diskError("list the images", err)
	}
	return names, nil
}

// savedRef is the content of a file in refs.
type savedRef struct {
	Reference string `json:"reference"`
	Digest    string `json:"digest"`
}

func refFile(text string) string {
	sum := sha256.Sum256([]byte(text))
	return filepath.Join(refsDir, hex.EncodeToString(sum[:])+".json")
}

func (s *Store) writeRef(text, digest string) error {
	if old, err := s.readRef(text); err == nil && old == digest {
		return nil
	}
	raw, err := json.Marshal(savedRef{text, digest})
	if err != nil {
		return err
	}
	return statefile.Replace(s.root, refFile(text), fileMode, statefile.Bytes(append(raw, '\n')))
}

// readRef returns the digest that a reference stands for. errNotHere: it was
// never pulled.
func (s *Store) readRef(text string) (string, error) {
	ref, err := s.readRefFile(refFile(text))
	if err == nil && ref.Reference != text {
		return "", errNotHere
	}
	return ref.Digest, err
}

func (s *Store) readRefFile(name string) (savedRef, error) {
	raw, err := s.read(name)
	if err != nil {
		return savedRef{}, err
	}
	var ref savedRef
	if err := json.Unmarshal(raw, &ref); err != nil || !digestForm().MatchString(ref.Digest) {
		return savedRef{}, errNotHere
	}
	return ref, nil
}

// references returns the references of each digest, in their short form.
func (s *Store) references() (map[string][]string, error) {
	refs := map[string][]string{}
	err := s.eachRef(func(_ string, r savedRef) error {
		refs[r.Digest] = append(refs[r.Digest], familiar(r.Reference))
		return nil
	})
	for _, list := range refs {
		slices.Sort(list)
	}
	return refs, err
}

func (s *Store) referencesOf(digest string) ([]string, error) {
	refs, err := s.references()
	return refs[digest], err
}

func (s *Store) eachRef(do func(file string, r savedRef) error) error {
	entries, err := fs.ReadDir(s.root.FS(), refsDir)
	if err = statefile.IgnoreMissing(err); err != nil {
		return diskError("list the references", err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		file := filepath.Join(refsDir, e.Name())
		r, err := s.readRefFile(file)
		if errors.Is(err, errNotHere) {
			continue
		}
		if err == nil {
			err = do(file, r)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Use returns the root file system of img, and protects it from Prune, in this
// and every other process, until release is called or the process ends. release
// may be called more than once. CodeNotFound: the image was removed.
func (s *Store) Use(img Image) (path string, release func(), err error) {
	if !digestForm().MatchString(img.Digest) {
		return "", nil, badReference(img.Digest, "it is not a digest")
	}
	dir := dirName(img.Digest)
	f, err := s.lockShared(dir)
	if errors.Is(err, errNotHere) {
		return "", nil, gone(img.Digest)
	}
	if err != nil {
		return "", nil, diskError("use the image", err)
	}
	return filepath.Join(s.dir, dir, rootDir), sync.OnceFunc(func() {
		s.touch(dir)
		_ = f.Close() // nothing was written
	}), nil
}

func gone(digest string) error {
	return notHere(digest, "pull it again: dreamcore image pull REFERENCE")
}

func notHere(name, hint string) error {
	return &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "the image " + name + " is not on this machine", Hint: hint, Err: errNotHere}
}

// PruneOptions selects the images that are removed: those that were not used for
// some time, or all. Images in use stay.
type PruneOptions struct {
	UnusedFor time.Duration
	All       bool
}

// Removed is an image that was removed.
type Removed struct {
	Digest     string
	References []string
	Size       int64 // bytes in its files
}

// Prune removes images, and the references that stood for them. After an error,
// or when ctx ends, it returns the images removed so far. CodeInvalid: the options
// select nothing.
func (s *Store) Prune(ctx context.Context, o PruneOptions) ([]Removed, error) {
	if !o.All && o.UnusedFor <= 0 {
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Message: "no images were selected",
			Hint: "give a time, such as --unused-for 720h, or --all",
		}
	}
	refs, err := s.references()
	if err != nil {
		return nil, err
	}
	dirs, err := s.dirs()
	if err != nil {
		return nil, err
	}
	var removed []Removed
	for _, dir := range dirs {
		if err := ctx.Err(); err != nil {
			return removed, fmt.Errorf("prune images: %w", context.Cause(ctx))
		}
		digest := digestOf(dir)
		size, gone, err := s.prune(dir, digest, o)
		if err != nil {
			return removed, diskError("remove the image "+digest, err)
		}
		if gone {
			removed = append(removed, Removed{Digest: digest, References: refs[digest], Size: size})
		}
	}
	return removed, s.pruneRefs()
}

// prune removes one image unless it is in use or was used recently.
func (s *Store) prune(dir, digest string, o PruneOptions) (size int64, gone bool, err error) {
	f, err := s.lockExclusive(dir)
	if f == nil || err != nil {
		return 0, false, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return 0, false, err
	}
	if !o.All && time.Since(fi.ModTime()) < o.UnusedFor {
		return 0, false, nil
	}
	if img, err := s.image(digest); err == nil {
		size = img.Size
	}
	return size, true, s.discard(dir)
}

// discard removes a directory. For other processes it disappears in one step.
func (s *Store) discard(dir string) error {
	gone := goneStart + rand.Text()
	if err := s.root.Rename(dir, gone); err != nil {
		return err
	}
	return s.root.RemoveAll(gone)
}

// tempAge is the age of a temporary file that its writer did not rename.
const tempAge = time.Hour

// pruneRefs removes references to images that are gone, and the temporary files
// of interrupted writers.
func (s *Store) pruneRefs() error {
	remove := func(file string) error {
		if err := s.root.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return diskError("remove "+file, err)
		}
		return nil
	}
	entries, err := fs.ReadDir(s.root.FS(), refsDir)
	if err != nil {
		return diskError("list the references", err)
	}
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil || !strings.HasPrefix(e.Name(), ".") || time.Since(fi.ModTime()) < tempAge {
			continue
		}
		if err := remove(filepath.Join(refsDir, e.Name())); err != nil {
			return err
		}
	}
	return s.eachRef(func(file string, r savedRef) error {
		_, err := s.root.Lstat(dirName(r.Digest))
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return remove(file)
	})
}

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
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// dirName is the name of the directory of an image.
func dirName(digest string) string { return strings.Replace(digest, ":", "-", 1) }

// digestOf is the digest of the image in a directory, "" where it is none.
func digestOf(dir string) string {
	digest := strings.Replace(dir, "-", ":", 1)
	if !digestForm.MatchString(digest) {
		return ""
	}
	return digest
}

// Lookup returns the image that ref stands for here, without any network: the
// one that was pulled last for it, or the one of that digest. CodeInvalid: ref
// is none. CodeNotFound: the image is not here.
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
	// A digest may be that of an index, which stands for another image.
	digest, err := s.readRef(r.text)
	if err == nil {
		var img Image
		if img, err = s.image(digest); err == nil {
			return img, nil
		}
	}
	if errors.Is(err, errNotHere) && r.digest != "" {
		var img Image
		if img, err = s.image(r.digest); err == nil {
			return img, nil
		}
	}
	if !errors.Is(err, errNotHere) {
		return Image{}, err
	}
	hint := "run: dreamcore image pull " + r.String()
	if r.kind == kindDigest {
		hint = "images that are here: dreamcore image list"
	}
	return Image{}, &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "the image " + r.String() + " is not on this machine", Hint: hint, Err: errNotHere}
}

// image reads what there is to know of one image, except its references.
// errNotHere: there is none that is whole.
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
		return Image{}, diskError("look at the image", err)
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

// read reads one of our own small files. errNotHere: there is none.
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

// List returns the images that are here, the one used last first.
func (s *Store) List() ([]Image, error) {
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
		if digest == "" {
			continue
		}
		img, err := s.image(digest)
		if errors.Is(err, errNotHere) {
			continue // removed meanwhile, or broken: Prune removes those
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

func (s *Store) dirs() ([]string, error) {
	names, err := namesIn(s.root)
	if err != nil {
		return nil, diskError("list the images", err)
	}
	slices.Sort(names)
	return names, nil
}

// savedRef is a file in refs.
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
	temp := filepath.Join(refsDir, "."+rand.Text())
	f, err := s.root.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, fileMode)
	if err != nil {
		return err
	}
	_, err = f.Write(append(raw, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = s.root.Rename(temp, refFile(text))
	}
	if err != nil {
		return errors.Join(err, s.root.Remove(temp))
	}
	return nil
}

// readRef returns the digest that a reference stands for. errNotHere: none.
func (s *Store) readRef(text string) (string, error) {
	ref, err := s.readRefFile(refFile(text))
	if err == nil && ref.Reference != text {
		err = errNotHere
	}
	return ref.Digest, err
}

func (s *Store) readRefFile(name string) (savedRef, error) {
	raw, err := s.read(name)
	if err != nil {
		return savedRef{}, err
	}
	var ref savedRef
	if err := json.Unmarshal(raw, &ref); err != nil || !digestForm.MatchString(ref.Digest) {
		return savedRef{}, errNotHere
	}
	return ref, nil
}

// references returns the references of each digest, as people write them.
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
	if err != nil {
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

// Use returns the root file system of img, and keeps it from being pruned, by
// this and every other process, until release is called or the process ends.
// Release may be called more than once. CodeNotFound: the image is gone.
func (s *Store) Use(img Image) (path string, release func(), err error) {
	if !digestForm.MatchString(img.Digest) {
		return "", nil, badReference(img.Digest, "it is no digest")
	}
	dir := dirName(img.Digest)
	f, err := s.lockShared(dir)
	if errors.Is(err, errNotHere) {
		return "", nil, gone(img.Digest)
	}
	if err != nil {
		return "", nil, diskError("use the image", err)
	}
	return filepath.Join(s.dir, dir, rootDir), s.releaser(dir, f), nil
}

func gone(digest string) error {
	return &dreamcore.Error{
		Code: dreamcore.CodeNotFound, Message: "the image " + digest + " is not on this machine", Err: errNotHere,
		Hint: "pull it again: dreamcore image pull REFERENCE",
	}
}

// PruneOptions says which images go: those that were not used for so long, or
// all. Images in use stay.
type PruneOptions struct {
	UnusedFor time.Duration
	All       bool
}

// Removed is an image that is gone.
type Removed struct {
	Digest     string
	References []string
	Size       int64 // bytes in its files
}

// Prune removes images and the references that stand for nothing then. After
// an error, or when ctx ends, it returns what was removed until then.
// CodeInvalid: the options say nothing.
func (s *Store) Prune(ctx context.Context, o PruneOptions) ([]Removed, error) {
	if !o.All && o.UnusedFor <= 0 {
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Message: "which images to remove was not said",
			Hint: "name a time, such as --unused-for 720h, or --all",
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
		if digest == "" {
			continue
		}
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

// prune removes one image unless it is in use or was used lately.
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
	if raw, err := s.read(filepath.Join(dir, noteFile)); err == nil {
		var n note
		if json.Unmarshal(raw, &n) == nil && n.Digest == digest {
			size = n.Size
		}
	}
	return size, true, s.discard(dir)
}

// discard removes a directory in one step, as everybody else sees it.
func (s *Store) discard(dir string) error {
	gone := goneStart + rand.Text()
	if err := s.root.Rename(dir, gone); err != nil {
		return err
	}
	return s.root.RemoveAll(gone)
}

// tempAge is when a file that should have been renamed at once is a leftover.
const tempAge = time.Hour

// pruneRefs removes references to images that are gone, and what writers that
// were interrupted have left.
func (s *Store) pruneRefs() error {
	entries, err := fs.ReadDir(s.root.FS(), refsDir)
	if err != nil {
		return diskError("list the references", err)
	}
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil || !strings.HasPrefix(e.Name(), ".") || time.Since(fi.ModTime()) < tempAge {
			continue
		}
		if err := s.root.Remove(filepath.Join(refsDir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return diskError("remove a leftover", err)
		}
	}
	return s.eachRef(func(file string, r savedRef) error {
		_, err := s.root.Lstat(dirName(r.Digest))
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := s.root.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return diskError("remove a reference", err)
		}
		return nil
	})
}

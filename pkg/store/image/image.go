// Package image keeps root file systems that come as container images. It
// pulls them from a registry, an OCI layout or a docker archive, checks every
// digest, and unpacks them once into a directory that sandboxes start from:
//
//	images/                         0700
//	images/lock                     held while a pull downloads and unpacks
//	images/refs/<hash>.json         the image that a reference meant at its last pull
//	images/sha256-<hex>/            one image; complete as soon as it has this name
//	images/sha256-<hex>/image.json  what List returns about it
//	images/sha256-<hex>/lock        held shared while the image is used; its time is the last use
//	images/sha256-<hex>/rootfs/     the file system
//	images/.pull-<random>/          an image that is being unpacked
//	images/.gone-<random>/          an image that is being removed
//
// Everything in an image is hostile: names, links, sizes, compression, and the
// answers of a registry. Files are written only below an os.Root, links of the
// image are resolved inside it, and every number is bounded before anything is
// allocated or written for it. A name that begins with a dot was left by an
// interrupted process; it is ignored, and the next pull removes it.
//
// Layouts and archives are not read with the library that speaks to registries:
// its packages for them read documents of any size, wait for a FIFO, follow links
// out of the layout, and read an archive from its beginning for every layer.
package image

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// Limits bounds an image. Zero values mean the defaults, never "no limit".
type Limits struct {
	Bytes     int64 // written by all layers together, and downloaded; default 8 GiB
	FileBytes int64 // of one file; default 4 GiB
	Entries   int   // of all layers together, with their parent directories; default 1,000,000
	Layers    int   // default 200
	PathBytes int   // of one name; default 4095
	PathDepth int   // nested directories; default 128
	// Ratio bounds the bytes that one compressed byte of a layer may expand to,
	// beyond the first 64 MiB of the layer; default 200.
	Ratio int64
}

func (l Limits) withDefaults() Limits {
	l.Bytes = cmp.Or(l.Bytes, 8<<30)
	l.FileBytes = cmp.Or(l.FileBytes, 4<<30)
	l.Ratio = cmp.Or(l.Ratio, 200)
	l.Entries = cmp.Or(l.Entries, 1_000_000)
	l.Layers = cmp.Or(l.Layers, 200)
	l.PathBytes = cmp.Or(l.PathBytes, 4095)
	l.PathDepth = cmp.Or(l.PathDepth, 128)
	return l
}

// Options of Open. Zero values mean the defaults.
type Options struct {
	Limits       Limits
	Architecture string                                // of images, as Go names it; default: that of this machine
	Proxy        func(*http.Request) (*url.URL, error) // default: no proxy
	// Credentials finds the operator's credentials for a registry; default:
	// the configuration files of docker and podman.
	Credentials authn.Keychain
	Logger      *slog.Logger
	// Look opens the images for List alone, and creates and removes nothing.
	Look bool
}

// Image is one unpacked image.
type Image struct {
	// Digest identifies the image: "sha256:" and 64 hex digits of its manifest. A
	// docker archive has no manifest; its images are identified by their
	// configuration, which holds the digest of every layer.
	Digest     string
	References []string  // that still stand for the image, sorted
	Size       int64     // bytes in its files
	Entries    int       // files, directories and links, as its layers list them
	Skipped    int       // device nodes and FIFOs, which are left out
	Created    time.Time // time of unpacking
	LastUsed   time.Time // time of the last pull, or of the beginning or end of a use
	InUse      bool      // by this or another process, when the Image was read
}

// Store is the directory of images. Its methods are safe for concurrent use,
// also by several processes.
type Store struct {
	dir    string // absolute
	root   *os.Root
	opts   Options
	owners bool // files keep their owners, which needs root

	stall time.Duration // silence after which a request to a registry fails
	pause time.Duration // before the second attempt of a request; three times as long before the third
}

const (
	rootDir   = "rootfs"
	blobsDir  = "blobs"
	refsDir   = "refs"
	lockFile  = "lock"
	noteFile  = "image.json"
	pullStart = ".pull-"
	goneStart = ".gone-"

	privateMode = 0o700
	fileMode    = 0o600

	// maxDocument bounds every JSON document: manifests, indexes,
	// configurations.
	maxDocument = 4 << 20
)

// Open opens the directory of images, creates it if it is missing, and removes
// the files of interrupted pulls. The caller must Close the Store.
func Open(dir string, opts Options) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, diskError("find the directory of images", err)
	}
	open := statefile.OpenDir
	if opts.Look {
		open = statefile.LookIn
	}
	root, err := open(dir)
	if err == nil && !opts.Look {
		err = statefile.IgnoreExisting(root.Mkdir(refsDir, privateMode))
	}
	if err != nil {
		return nil, diskError("open the directory of images "+dir, err)
	}
	opts.Limits = opts.Limits.withDefaults()
	opts.Architecture = cmp.Or(opts.Architecture, runtime.GOARCH)
	if opts.Credentials == nil {
		opts.Credentials = authn.DefaultKeychain
	}
	opts.Logger = cmp.Or(opts.Logger, slog.New(slog.DiscardHandler))
	s := &Store{dir: dir, root: root, opts: opts, owners: os.Geteuid() == 0, stall: 30 * time.Second, pause: time.Second}
	if opts.Look {
		return s, nil
	}
	// The files of a pull that runs in another process, which holds the lock, stay.
	if unlock, err := s.tryLockPulls(); err == nil {
		s.sweep()
		unlock()
	}
	return s, nil
}

// Close closes the Store. Images in use remain in use.
func (s *Store) Close() error {
	if s.root == nil {
		return nil
	}
	return s.root.Close()
}

// Pull makes the image that ref names available and returns it; unpacked reports
// whether it was missing before. A tag is resolved at every pull. An image that is
// here is neither downloaded nor unpacked again, and a reference with its digest
// needs no network at all. progress may be nil; it is called from several
// goroutines, one at a time. Only one pull at a time downloads, others wait.
//
// CodeInvalid: ref is not a reference. CodeNotFound, CodeUnauthorized, CodeBusy,
// CodeUnreachable: the registry's answer, or its silence. CodeSetup: the image is
// refused, or cannot be written.
func (s *Store) Pull(ctx context.Context, ref string, progress func(Progress)) (img Image, unpacked bool, err error) {
	r, err := parse(ref)
	if err != nil {
		return Image{}, false, err
	}
	if r.digest != "" { // it means the same image forever
		if img, err = s.lookup(r); err == nil {
			img, err = s.remember(r, img.Digest)
			return img, false, err
		} else if r.kind == kindDigest || !errors.Is(err, errNotHere) {
			return Image{}, false, err
		}
	}
	src, err := s.source(ctx, r)
	if err != nil {
		return Image{}, false, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	m, err := src.resolve(ctx)
	if err != nil {
		return Image{}, false, pullError(ctx, r, err)
	}
	if unpacked, err = s.ensure(ctx, src, m, &reporter{call: progress, layers: len(m.layers)}); err != nil {
		return Image{}, false, pullError(ctx, r, err)
	}
	img, err = s.remember(r, m.digest)
	return img, unpacked, err
}

// ensure unpacks the image of m unless it is here.
func (s *Store) ensure(ctx context.Context, src source, m manifest, report *reporter) (unpacked bool, err error) {
	if _, err := s.image(m.digest); !errors.Is(err, errNotHere) {
		return false, err
	}
	unlock, err := s.lockPulls(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	// The previous holder of the lock may have pulled the same image.
	if _, err := s.image(m.digest); !errors.Is(err, errNotHere) {
		return false, err
	}
	s.sweep()
	return true, s.build(ctx, src, m, report)
}

// remember notes the image that a reference stands for, and returns the image.
func (s *Store) remember(r reference, digest string) (img Image, err error) {
	if r.kind != kindDigest {
		if err := s.writeRef(r.text, digest); err != nil {
			return Image{}, diskError("note the reference", err)
		}
	}
	now := time.Now()
	err = s.root.Chtimes(filepath.Join(dirName(digest), lockFile), now, now)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Image{}, diskError("note the use of the image", err)
	}
	img, err = s.image(digest)
	if errors.Is(err, errNotHere) {
		err = gone(digest) // it was pruned just now
	}
	if err != nil {
		return Image{}, err
	}
	img.References, err = s.referencesOf(digest)
	return img, err
}

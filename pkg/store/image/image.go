// Package image keeps root file systems that come as container images. It
// pulls them from a registry, an OCI layout or an archive of docker, checks
// every digest, and unpacks them once into a directory that sandboxes start
// from:
//
//	images/                         0700, ours
//	images/lock                     held while a pull downloads and unpacks
//	images/refs/<hash>.json         which image a reference meant when it was pulled last
//	images/sha256-<hex>/            one image; complete from the moment it has this name
//	images/sha256-<hex>/image.json  what List tells of it
//	images/sha256-<hex>/lock        held shared while the image is used; its time is the last use
//	images/sha256-<hex>/rootfs/     the file system
//	images/.pull-<random>/          an image in the making
//	images/.gone-<random>/          an image that is being removed
//
// Everything in an image is hostile: names, links, sizes, compression, and
// what a registry answers. Files are written below an os.Root only, links of
// the image are resolved inside of it, and every number is bounded before
// anything is allocated or written for it. What begins with a dot is left by a
// process that was interrupted, never counts, and is removed by the next one.
package image

import (
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
)

// Limits bounds what an image may be. Zero values mean the defaults, never
// "no limit".
type Limits struct {
	Bytes     int64 // written by all layers together, and downloaded; default 8 GiB
	FileBytes int64 // of one file; default 4 GiB
	Entries   int   // of all layers together, with the directories that are made on the way; default 1,000,000
	Layers    int   // default 200
	PathBytes int   // of one name; default 4095
	PathDepth int   // directories above one another; default 128
	// Ratio is how many bytes one compressed byte of a layer may become,
	// beyond the first 64 MiB of the layer; default 200.
	Ratio int64
}

func (l Limits) withDefaults() Limits {
	def := func(v *int64, d int64) {
		if *v <= 0 {
			*v = d
		}
	}
	defInt := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	def(&l.Bytes, 8<<30)
	def(&l.FileBytes, 4<<30)
	def(&l.Ratio, 200)
	defInt(&l.Entries, 1_000_000)
	defInt(&l.Layers, 200)
	defInt(&l.PathBytes, 4095)
	defInt(&l.PathDepth, 128)
	return l
}

// Options of Open. Zero values mean the defaults.
type Options struct {
	Limits       Limits
	Architecture string                                // of images, as Go names it; default: this machine's
	Proxy        func(*http.Request) (*url.URL, error) // default: none
	// Credentials finds the operator's credentials for a registry; default:
	// the configuration files of docker and podman.
	Credentials authn.Keychain
	Logger      *slog.Logger
}

// Image is one unpacked image.
type Image struct {
	// Digest names the image: "sha256:" and 64 hex digits of its manifest. An
	// archive of docker has no manifest; its images are named by their
	// configuration, which holds the digest of every layer.
	Digest     string
	References []string  // what it was pulled as and still stands for, sorted
	Size       int64     // bytes in its files
	Entries    int       // files, directories and links, as its layers list them
	Skipped    int       // device nodes and FIFOs that were left out
	Created    time.Time // when it was unpacked here
	LastUsed   time.Time // the last pull, or begin or end of a use
	InUse      bool      // by this or another process, at the moment of asking
}

// Store is the directory of images. Its methods are safe for concurrent use,
// also by several processes.
type Store struct {
	dir    string // absolute
	root   *os.Root
	opts   Options
	owners bool // files keep their owners, which only root can give them

	stall time.Duration // silence after which a registry is given up
	pause time.Duration // before the second try of a request; three times as long before the third
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

// Open opens the directory of images, makes it where it is missing, and
// removes what interrupted pulls have left. The caller must Close the Store.
func Open(dir string, opts Options) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, diskError("find the directory of images", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, refsDir), privateMode); err != nil {
		return nil, diskError("open the directory of images "+dir, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, diskError("open the directory of images "+dir, err)
	}
	opts.Limits = opts.Limits.withDefaults()
	if opts.Architecture == "" {
		opts.Architecture = runtime.GOARCH
	}
	if opts.Credentials == nil {
		opts.Credentials = authn.DefaultKeychain
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{dir: dir, root: root, opts: opts, owners: os.Geteuid() == 0, stall: 30 * time.Second, pause: time.Second}
	// A pull that runs now in another process has the lock: its files stay.
	if unlock, err := s.tryLockPulls(); err == nil {
		s.sweep()
		unlock()
	}
	return s, nil
}

// Close closes the Store. Images that are in use stay so.
func (s *Store) Close() error { return s.root.Close() }

// Pull makes the image that ref names ready and returns it; unpacked tells
// that it was not there before. A tag is looked up again at every pull; an
// image that is here by its digest already is neither downloaded nor unpacked
// again, and a reference with a digest then needs no network at all.
// Progress, which may be nil, is called from several goroutines, by one at a
// time. One pull at a time downloads, others wait.
//
// CodeInvalid: ref is none. CodeNotFound, CodeUnauthorized, CodeBusy,
// CodeUnreachable: what the registry said, or that it said nothing. CodeSetup:
// the image is refused, or cannot be written.
func (s *Store) Pull(ctx context.Context, ref string, progress func(Progress)) (img Image, unpacked bool, err error) {
	r, err := parse(ref)
	if err != nil {
		return Image{}, false, err
	}
	if r.fixed() {
		if img, err = s.lookup(r); err == nil {
			return s.remember(r, img.Digest)
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
	if unpacked, err = s.ensure(ctx, src, m, newReporter(progress, len(m.layers))); err != nil {
		return Image{}, false, pullError(ctx, r, err)
	}
	img, _, err = s.remember(r, m.digest)
	return img, unpacked, err
}

// ensure makes the image of m unless it is there.
func (s *Store) ensure(ctx context.Context, src source, m manifest, report *reporter) (made bool, err error) {
	if _, err := s.image(m.digest); !errors.Is(err, errNotHere) {
		return false, err
	}
	unlock, err := s.lockPulls(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	// Whoever had the lock may have pulled the same image.
	if _, err := s.image(m.digest); !errors.Is(err, errNotHere) {
		return false, err
	}
	s.sweep()
	return true, s.build(ctx, src, m, report)
}

// remember notes which image a reference stands for, and returns the image.
func (s *Store) remember(r reference, digest string) (Image, bool, error) {
	if r.kind != kindDigest {
		if err := s.writeRef(r.text, digest); err != nil {
			return Image{}, false, diskError("note the reference", err)
		}
	}
	now := time.Now()
	err := s.root.Chtimes(filepath.Join(dirName(digest), lockFile), now, now)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Image{}, false, diskError("note the use of the image", err)
	}
	img, err := s.image(digest)
	if errors.Is(err, errNotHere) {
		err = gone(digest) // pruned in this moment
	}
	if err != nil {
		return Image{}, false, err
	}
	img.References, err = s.referencesOf(digest)
	return img, false, err
}

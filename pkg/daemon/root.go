package daemon

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/rootfs"
	"github.com/notef-neighbor/dreamcore/pkg/store/image"
)

// Puller downloads an image that is missing and shows the progress.
type Puller func(ctx context.Context, images *image.Store, ref string) (image.Image, error)

// root is the root file system that sandboxes start from.
type root struct {
	sandbox.Root
	name  string // for people; "" for this machine's programs
	image bool   // whether it is an image of the store
	free  func() // ends the use of the image; may be nil
}

// close lets the image be pruned again. It may be called more than once.
func (r root) close() {
	if r.free != nil {
		r.free()
	}
}

// openRoot prepares the root file system of sandboxes: an image, a directory or
// this machine's programs. For the first two, the skeleton goes into dir, which
// belongs to this process: another process may use another root at the same
// time. The caller must close the root.
func (s *State) openRoot(ctx context.Context, dir string, log *slog.Logger) (root, error) {
	skeleton := filepath.Join(dir, "rootfs")
	tree := s.Config.Rootfs
	if image.IsDirectory(s.Config.Image) {
		tree = s.Config.Image
	}
	switch {
	case tree != "":
		r, err := rootfs.Directory(skeleton, tree)
		return root{Root: r, name: "directory " + tree}, err
	case s.Config.Image != "":
		return s.openImage(ctx, skeleton, log)
	}
	r, err := rootfs.Host(s.Path("rootfs"), uint32(s.Config.UID), uint32(s.Config.GID))
	return root{Root: r}, err
}

// openImage finds or pulls the configured image once: a tag that is moved later
// has no effect on a running service.
func (s *State) openImage(ctx context.Context, skeleton string, log *slog.Logger) (_ root, err error) {
	images, err := s.OpenImages(log)
	if err != nil {
		return root{}, err
	}
	img, tree, release, err := s.useImage(ctx, images)
	if err != nil {
		return root{}, errors.Join(err, images.Close())
	}
	r := root{name: "image " + image.Pinned(s.Config.Image, img), image: true}
	r.free = func() {
		release()
		_ = images.Close() // nothing is written through it
	}
	if r.Root, err = rootfs.Directory(skeleton, tree); err != nil {
		r.close()
		return root{}, r.unfit(err)
	}
	return r, nil
}

// useImage returns the image and its tree, which is not pruned until release is
// called.
func (s *State) useImage(ctx context.Context, images *image.Store) (img image.Image, tree string, release func(), err error) {
	img, err = images.Lookup(s.Config.Image)
	if err == nil {
		tree, release, err = images.Use(img)
	}
	if dreamcore.CodeOf(err) != dreamcore.CodeNotFound || s.Pull == nil {
		return img, tree, release, err
	}
	if img, err = s.Pull(ctx, images, s.Config.Image); err != nil {
		return img, "", nil, err
	}
	tree, release, err = images.Use(img)
	return img, tree, release, err
}

// unfit returns the error for a root in which the agent cannot run.
func (r root) unfit(err error) error {
	hint := "use a root file system with glibc and bash, like that of debian:12; the agent does not run on musl (Alpine)"
	if r.image {
		hint = "use an image with glibc and bash, such as debian:12; the agent does not run on musl (Alpine)"
	}
	return &dreamcore.Error{Code: dreamcore.CodeSetup, Message: "the agent cannot run in the " + r.name, Err: err, Hint: hint}
}

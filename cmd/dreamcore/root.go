package main

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/rootfs"
	"github.com/notef-neighbor/dreamcore/pkg/store/image"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
)

// root is what sandboxes start from.
type root struct {
	sandbox.Root
	name  string // as people know it; "" for this machine's programs
	image bool   // it comes from an image in the store
	free  func() // ends the use of the image; nil without one
}

// close lets the image be pruned again. It may be called more than once.
func (r root) close() {
	if r.free != nil {
		r.free()
	}
}

// puller brings an image that is not here, and shows how that goes on.
type puller func(ctx context.Context, images *image.Store, ref string) (image.Image, error)

// openRoot prepares what sandboxes start from: an image, a directory or this
// machine's programs. The skeleton of the first two lies in dir, which belongs
// to this process: another one may run at the same time with another root. The
// caller must close the root.
func (s state) openRoot(ctx context.Context, dir string, log *slog.Logger) (root, error) {
	skeleton := filepath.Join(dir, "rootfs")
	tree := s.cfg.Rootfs
	if image.IsDirectory(s.cfg.Image) {
		tree = s.cfg.Image
	}
	switch {
	case tree != "":
		r, err := rootfs.Directory(skeleton, tree)
		return root{Root: r, name: "directory " + tree}, err
	case s.cfg.Image != "":
		return s.openImage(ctx, skeleton, log)
	}
	r, err := rootfs.Host(s.path("rootfs"), uint32(s.cfg.UID), uint32(s.cfg.GID))
	return root{Root: r}, err
}

// openImage finds or pulls the image of the settings, once: what a tag means
// later changes nothing.
func (s state) openImage(ctx context.Context, skeleton string, log *slog.Logger) (_ root, err error) {
	images, err := s.images(log)
	if err != nil {
		return root{}, err
	}
	img, tree, release, err := s.useImage(ctx, images)
	if err != nil {
		return root{}, errors.Join(err, images.Close())
	}
	r := root{name: "image " + image.Pinned(s.cfg.Image, img), image: true}
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

// useImage returns the image with its tree, which nobody prunes until release
// is called.
func (s state) useImage(ctx context.Context, images *image.Store) (img image.Image, tree string, release func(), err error) {
	img, err = images.Lookup(s.cfg.Image)
	if err == nil {
		tree, release, err = images.Use(img)
	}
	if dreamcore.CodeOf(err) != dreamcore.CodeNotFound || s.pull == nil {
		return img, tree, release, err
	}
	if img, err = s.pull(ctx, images, s.cfg.Image); err != nil {
		return img, "", nil, err
	}
	tree, release, err = images.Use(img)
	return img, tree, release, err
}

// unfit is the error of a root that the agent does not run in.
func (r root) unfit(err error) error {
	hint := "use a root file system with glibc and bash, like that of debian:12; the agent does not run on musl (Alpine)"
	if r.image {
		hint = "use an image with glibc and bash, such as debian:12; the agent does not run on musl (Alpine)"
	}
	return &dreamcore.Error{Code: dreamcore.CodeSetup, Message: "the agent cannot run in the " + r.name, Err: err, Hint: hint}
}

// checkRoot makes sure that the agent runs in a root that is not this
// machine's, where setup has proven it. Without the check it would end without
// a word of what is missing.
func (m *machine) checkRoot(ctx context.Context, bin agent.Binary) error {
	if m.root.name == "" {
		return nil
	}
	err := m.prober.Agent(ctx, bin.Path)
	// The sandbox itself, or the time, is none of the root's faults.
	if err == nil || ctx.Err() != nil || dreamcore.CodeOf(err) != dreamcore.CodeInternal ||
		errors.Is(err, sandbox.ErrLost) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return m.root.unfit(err)
}

// sandboxes says what sandboxes are, for people.
func (m *machine) sandboxes() string {
	if m.root.name == "" {
		return m.provider.Name()
	}
	return m.provider.Name() + ", " + m.root.name
}

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/notef-neighbor/dreamcore/pkg/daemon"
	"github.com/notef-neighbor/dreamcore/pkg/operate/pull"
	"github.com/notef-neighbor/dreamcore/pkg/store/image"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

func newImageCmd(a *app) *cobra.Command {
	return group("image", "Pull, list and prune images that sandboxes start from",
		"Manages the images that --image and the setting image name. A pulled image is used\n"+
			"without a network until it is pulled again, even if its tag has moved meanwhile. The\n"+
			"agent needs glibc and bash in it: use Debian or similar, not Alpine.", "",
		newImagePullCmd(a), newImageListCmd(a), newImagePruneCmd(a))
}

// withImages opens the state directory and the store of images for one call.
func (a *app) withImages(do func(s *daemon.State, images *image.Store) error) error {
	return a.withState(func(s *daemon.State) (err error) {
		images, err := s.OpenImages(a.logger(s.Config.LogLevel))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, images.Close()) }()
		return do(s, images)
	})
}

// imageRow is the JSON form of an image.
type imageRow struct {
	Digest     string    `json:"digest"`
	References []string  `json:"references"`
	Bytes      int64     `json:"bytes"`
	Entries    int       `json:"entries"`
	Skipped    int       `json:"skipped"`
	Created    time.Time `json:"created"`
	LastUsed   time.Time `json:"last_used"`
	InUse      bool      `json:"in_use"`
}

func newImageRow(img image.Image) imageRow {
	return imageRow{
		Digest: img.Digest, References: append([]string{}, img.References...), Bytes: img.Size, Entries: img.Entries,
		Skipped: img.Skipped, Created: img.Created, LastUsed: img.LastUsed, InUse: img.InUse,
	}
}

func newImagePullCmd(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "pull REFERENCE", Short: "Download and unpack an image",
		Long: "Prepares an image for sandboxes. REFERENCE is the name of an image in a registry,\n" +
			"oci-layout:DIR (with @sha256:… if it holds several images), or\n" +
			"docker-archive:FILE.tar. Credentials come from the configuration of docker.",
		Example: "  dreamcore image pull debian:12\n" +
			"  docker save my-image > my-image.tar && dreamcore image pull docker-archive:my-image.tar",
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withImages(func(s *daemon.State, images *image.Store) error {
				if err := s.CheckDisk(); err != nil {
					return err
				}
				return pullImage(c.Context(), a, images, args[0])
			})
		},
	}
}

func pullImage(ctx context.Context, a *app, images *image.Store, ref string) error {
	out := a.io.Human()
	img, unpacked, err := pull.Image(ctx, out, images, ref)
	if err != nil {
		return err
	}
	if a.io.JSON {
		return a.io.WriteJSON(struct {
			imageRow
			Pulled bool `json:"pulled"`
		}{newImageRow(img), unpacked})
	}
	if !unpacked {
		out.Info("image "+ref+" exists already", img.Digest)
		return nil
	}
	out.Pairs(term.Pair{Key: "digest", Value: img.Digest})
	if img.Skipped > 0 {
		out.Info(fmt.Sprintf("%d device nodes and FIFOs were omitted: sandboxes have their own", img.Skipped))
	}
	return nil
}

// pull is the daemon.Puller of commands for which an image is only a prerequisite.
// It prints on standard error.
func (a *app) pull(ctx context.Context, images *image.Store, ref string) (image.Image, error) {
	img, _, err := pull.Image(ctx, a.io.Stderr(), images, ref)
	return img, err
}

func newImageListCmd(a *app) *cobra.Command {
	images := list[imageRow]{
		key: "images", columns: columns("~IMAGE", "DIGEST", ">SIZE", "CREATED", "LAST USED"), cells: imageRow.cells,
		empty: "There are no images yet: sandboxes start from this machine's programs", hint: "run: dreamcore image pull debian:12",
	}
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the pulled images", Args: usageArgs(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			return a.withImages(func(_ *daemon.State, store *image.Store) error {
				stored, err := store.List()
				if err != nil {
					return err
				}
				var rows []imageRow
				for _, img := range stored {
					rows = append(rows, newImageRow(img))
				}
				return images.show(a.io, rows, nil)
			})
		},
	}
}

func (r imageRow) cells() []string {
	used := r.LastUsed.Local().Format(time.DateTime)
	if r.InUse {
		used = "in use"
	}
	names := cmp.Or(strings.Join(r.References, ", "), "-")
	return []string{names, shortDigest(r.Digest), term.Size(r.Bytes), r.Created.Local().Format(time.DateTime), used}
}

// shortDigest returns the beginning of a digest, for people.
func shortDigest(digest string) string {
	const digits = 12
	return digest[:min(len(digest), len("sha256:")+digits)]
}

type imagePruneOptions struct {
	unusedFor time.Duration
	all, yes  bool
}

func newImagePruneCmd(a *app) *cobra.Command {
	var o imagePruneOptions
	c := &cobra.Command{
		Use: "prune", Short: "Remove images that are not in use",
		Example: "  dreamcore image prune --unused-for 720h\n  dreamcore image prune --all",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if o.all == c.Flags().Changed("unused-for") {
				return misuse(c, errors.New("use either --unused-for or --all"))
			}
			if !o.all && o.unusedFor <= 0 {
				return misuse(c, errors.New("--unused-for must be more than 0"))
			}
			return a.withImages(func(_ *daemon.State, images *image.Store) error { return pruneImages(c.Context(), a, images, o) })
		},
	}
	c.Flags().DurationVar(&o.unusedFor, "unused-for", 0, "images that were not used for this long, such as 720h")
	c.Flags().BoolVar(&o.all, "all", false, "all images that are not in use")
	c.Flags().BoolVarP(&o.yes, "yes", "y", false, "do not ask")
	return c
}

func pruneImages(ctx context.Context, a *app, images *image.Store, o imagePruneOptions) error {
	ok, err := a.confirmed(ctx, o.yes || !o.all, "Remove all images that are not in use?", "Nothing was removed")
	if err != nil || !ok {
		return err
	}
	removed, err := images.Prune(ctx, image.PruneOptions{UnusedFor: o.unusedFor, All: o.all})
	return errors.Join(err, showRemoved(a, removed))
}

type removedRow struct {
	Digest     string   `json:"digest"`
	References []string `json:"references"`
	Bytes      int64    `json:"bytes"`
}

func showRemoved(a *app, removed []image.Removed) error {
	var rows []removedRow
	total := int64(0)
	for _, r := range removed {
		total += r.Size
		rows = append(rows, removedRow{r.Digest, append([]string{}, r.References...), r.Size})
	}
	err := list[removedRow]{
		key: "removed", columns: columns("REMOVED", "~IMAGE", ">SIZE"), empty: "There is nothing to remove",
		cells: func(r removedRow) []string {
			return []string{shortDigest(r.Digest), strings.Join(r.References, ", "), term.Size(r.Bytes)}
		},
	}.show(a.io, rows, map[string]any{"bytes": total})
	if len(rows) > 0 && !a.io.JSON {
		a.io.Stdout().Success(fmt.Sprintf("%d removed, %s freed", len(rows), term.Size(total)))
	}
	return err
}

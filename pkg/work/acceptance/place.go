package acceptance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/rootfs"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
	"github.com/notef-neighbor/dreamcore/pkg/work/acceptance/verdict"
)

// Sandboxes creates sandboxes; every sandbox.Provider does.
type Sandboxes interface {
	Create(ctx context.Context, spec sandbox.Spec) (sandbox.Sandbox, error)
}

// Place is where games are checked outside of a job, each in a sandbox of its
// own.
type Place struct {
	Sandboxes Sandboxes
	Root      sandbox.Root
	Limits    sandbox.Limits
	CheckFile string // dreamcore-check on the host
	Dir       string // of the host, for the copies of games
}

// MaxGame bounds, in bytes, a game that is checked outside of a job.
const MaxGame = 1 << 30

// Source copies the files of a game into a directory. CodeTooLarge: more than
// MaxGame bytes.
type Source func(ctx context.Context, to *os.Root) error

// Directory is the game in a directory of the host. Links are left out: they
// would lead elsewhere in the sandbox.
func Directory(dir string) Source {
	return func(ctx context.Context, to *os.Root) error {
		from, err := os.OpenRoot(dir)
		if err != nil {
			return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: fmt.Sprintf("cannot open the directory %q", dir), Err: err}
		}
		defer from.Close()
		left := int64(MaxGame)
		for e, err := range tree.Walk(ctx, from, tree.NoSkip) {
			if err != nil {
				return err
			}
			if !e.Mode.IsRegular() {
				continue
			}
			if left -= e.Size; left < 0 {
				return errTooLarge()
			}
			if err := copyEntry(ctx, to, e); err != nil {
				return err
			}
		}
		return nil
	}
}

func copyEntry(ctx context.Context, to *os.Root, e tree.Entry) error {
	src, err := e.Open()
	if err != nil {
		return nil // removed meanwhile, or not readable: the page shows whether it is needed
	}
	defer src.Close()
	return tree.PutFile(ctx, to, e, io.LimitReader(src, e.Size), true)
}

// Project is the game in a project. The caller holds the project's lock, or
// accepts a mixture of two versions.
func Project(p *volume.Project) Source {
	return func(ctx context.Context, to *os.Root) error {
		left := int64(MaxGame)
		for e, err := range p.Files(ctx) {
			if err != nil {
				return err
			}
			if left -= e.Size; left < 0 {
				return errTooLarge()
			}
			src, _, err := p.Open(e.Path)
			if dreamcore.CodeOf(err) == dreamcore.CodeNotFound {
				continue // removed meanwhile
			}
			if err != nil {
				return err
			}
			err = tree.PutFile(ctx, to, e, io.LimitReader(src, e.Size), true) // it may grow meanwhile
			if err = errors.Join(err, src.Close()); err != nil {
				return err
			}
		}
		return nil
	}
}

func errTooLarge() error {
	return &dreamcore.Error{Code: dreamcore.CodeTooLarge, Message: "the game is larger than 1 GiB", Hint: "remove what is not part of the game"}
}

// Check checks a game in a sandbox of its own, and leaves nothing behind. As with
// Browser.Check, an error with a reason of this package means that there is no
// verdict; any other error is a fault of the source or of the machine.
func (p Place) Check(ctx context.Context, game Source, s Settings) (r verdict.Report, err error) {
	r.Verdict = verdict.Unknown
	if p.CheckFile == "" {
		return r, unknown(ReasonMissing, "this program was built without the check of games", nil)
	}
	dir := filepath.Join(p.Dir, uuid.NewString())
	if err := os.Mkdir(dir, 0o700); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := fill(ctx, dir, game); err != nil {
		return r, err
	}
	const inside = rootfs.DataDir + "/game"
	sb, err := p.Sandboxes.Create(ctx, sandbox.Spec{Root: p.Root, Limits: p.Limits, Mounts: []sandbox.Mount{
		{Source: dir, Target: inside}, {Source: p.CheckFile, Target: rootfs.CheckPath},
	}})
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, sb.Close(context.WithoutCancel(ctx))) }()
	b := Start(ctx, sb, s)
	defer func() { err = errors.Join(err, b.Close(context.WithoutCancel(ctx))) }()
	return b.Check(ctx, inside)
}

// fill copies a game to dir, readable by every user of a sandbox.
func fill(ctx context.Context, dir string, game Source) error {
	to, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer to.Close()
	if err := game(ctx, to); err != nil {
		return err
	}
	return os.Chmod(dir, 0o755)
}

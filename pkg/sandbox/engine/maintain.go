package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/oci"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/pid1"
)

// maxReport bounds, in bytes, the output of the supervisor that maintain keeps.
const maxReport = 4 << 10

func (b *box) Clean(ctx context.Context, r sandbox.Residue) error {
	if len(r.Owners) == 0 && len(r.Empty)+len(r.Special) > 0 {
		return errors.New("clean: no owner of the files that are to be removed")
	}
	if err := b.EndAll(ctx); err != nil {
		return err
	}
	if len(r.Empty)+len(r.Special) == 0 {
		return nil
	}
	args := []string{pid1.CleanRole}
	for _, dir := range r.Special {
		args = append(args, pid1.SpecialPrefix+dir)
	}
	args = append(args, r.Empty...)
	// A user cannot remove files of another one: each
	// round removes one such layer.
	var err error
	for range len(r.Owners) {
		var errs []error
		for _, o := range r.Owners {
			_, err := b.maintain(ctx, o.UID, o.GID, args...)
			errs = append(errs, err)
		}
		if err = errors.Join(errs...); err == nil || errors.Is(err, sandbox.ErrLost) || ctx.Err() != nil {
			break
		}
	}
	return err
}

func (b *box) Reach(ctx context.Context, uid, gid uint32, endpoint string) (string, error) {
	out, err := b.maintain(ctx, uid, gid, pid1.TryRole, endpoint)
	if err != nil {
		return "", err
	}
	result, ok := strings.CutPrefix(strings.TrimSpace(out), endpoint+": ")
	if !ok {
		return "", fmt.Errorf("unexpected report on %s: %.100q", endpoint, out)
	}
	return result, nil
}

// maintain runs the supervisor's program inside in another role and returns
// what it prints. Unlike a tool of the system, it is the same program in every
// root file system.
func (b *box) maintain(ctx context.Context, uid, gid uint32, args ...string) (string, error) {
	var out, errs report
	p, err := b.Start(ctx, sandbox.Command{
		Args: append([]string{oci.InitPath}, args...), UID: uid, GID: gid, Stdout: &out, Stderr: &errs,
	})
	if err != nil {
		return "", err
	}
	exit, err := p.Wait()
	if err == nil && exit.Code != 0 {
		err = fmt.Errorf("exit code %d: %.500s", exit.Code, errs.String())
	}
	return out.String(), err
}

// report keeps the first maxReport bytes that are written to it. A program of
// the same user may have changed what the supervisor writes.
type report struct{ strings.Builder }

func (r *report) Write(p []byte) (int, error) {
	r.Builder.Write(p[:min(len(p), maxReport-r.Len())])
	return len(p), nil
}

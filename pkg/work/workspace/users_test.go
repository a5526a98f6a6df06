package workspace

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

// cleaned records the directories that are cleaned.
type cleaned struct {
	*sandboxtest.Fake
	owners []sandbox.Owner
	err    error
}

func (c *cleaned) Clean(_ context.Context, r sandbox.Residue) error {
	c.owners = r.Owners
	return c.err
}

func TestTheFilesOfEveryUserThatRanAProgramAreCleaned(t *testing.T) {
	box := &cleaned{Fake: &sandboxtest.Fake{}, err: errors.New("not everything")}
	w := &Workspace{Sandbox: box, template: Template{UID: 10000, GID: 10001}}
	agent, browser := sandbox.Owner{UID: 10000, GID: 10001}, sandbox.Owner{UID: 61000, GID: 61000}
	for _, o := range []sandbox.Owner{agent, browser, browser} {
		p, err := w.Start(t.Context(), sandbox.Command{Args: []string{"x"}, UID: o.UID, GID: o.GID})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range [][]sandbox.Owner{{agent, browser}, {agent, browser}, {agent}} {
		if err := w.clean(t.Context()); !errors.Is(err, box.err) {
			t.Errorf("clean: %v", err)
		}
		if !slices.Equal(box.owners, want) {
			t.Errorf("cleaning %d: %v, want %v", i, box.owners, want)
		}
		box.err = nil // what could not be cleaned is tried again
	}
}

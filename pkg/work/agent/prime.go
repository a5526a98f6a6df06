package agent

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// primeDir is the working directory and HOME of Prime, whose content the caller removes.
const primeDir = "/tmp"

// Prime runs the CLI once without a prompt, so that the next start in the sandbox is
// faster. It asks the model nothing, and has no token.
func (c Config) Prime(ctx context.Context, sb sandbox.Sandbox) error {
	c.Home = primeDir
	cmd := c.Command(primeDir, "none", Session{ID: uuid.NewString()})
	p, err := sb.Start(ctx, cmd)
	if err != nil {
		return fmt.Errorf("start the agent: %w", err)
	}
	if _, err := p.Wait(); err != nil {
		return fmt.Errorf("run the agent: %w", err)
	}
	return ctx.Err()
}

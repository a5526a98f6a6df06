package probe

import (
	"context"
	"fmt"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/rootfs"
)

// Agent starts what the agent needs of a root file system: bash, which runs
// its commands, and its own program, the file on the host; "" leaves the
// program out. An error tells which of them does not run, and why.
func (p *Prober) Agent(ctx context.Context, file string) error {
	ctx, cancel := p.limited(ctx)
	defer cancel()
	var mounts []sandbox.Mount
	if file != "" {
		mounts = []sandbox.Mount{{Source: file, Target: rootfs.AgentPath}}
	}
	err := p.within(ctx, mounts, func(sb sandbox.Sandbox) error {
		if err := p.run(ctx, sb, "", &output{limit: maxOutput}, "bash", "-c", "exit 0"); err != nil {
			return failed("bash does not run in a sandbox", err)
		}
		if file == "" {
			return nil
		}
		if err := p.run(ctx, sb, "", &output{limit: maxOutput}, rootfs.AgentPath, "--version"); err != nil {
			return failed("the agent's program does not run in a sandbox", err)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("check the root file system: %w", err)
	}
	return nil
}

package probe

import (
	"context"
	"fmt"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/rootfs"
)

// Agent checks that a root file system can run the agent: it starts bash, which
// runs the agent's commands, and the agent's program, a file on the host. If file
// is "", it skips the program. The error names the one that does not run.
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

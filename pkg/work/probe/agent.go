package probe

import (
	"context"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/rootfs"
)

// Agent checks that a root file system can run the agent: it starts bash, which
// runs the agent's commands, and the agent's program, a file on the host. If file
// is "", it skips the program. The error names the one that does not run.
func (p *Prober) Agent(ctx context.Context, file string) error {
	var mounts []sandbox.Mount
	if file != "" {
		mounts = []sandbox.Mount{{Source: file, Target: rootfs.AgentPath}}
	}
	return p.limited(ctx, "the root file system", func(ctx context.Context) error {
		return p.within(ctx, mounts, func(sb sandbox.Sandbox) error {
			err := p.run(ctx, sb, "bash does not run in a sandbox", "", &output{limit: maxOutput}, "bash", "-c", "exit 0")
			if err == nil && file != "" {
				err = p.run(ctx, sb, "the agent's program does not run in a sandbox", "", &output{limit: maxOutput}, rootfs.AgentPath, "--version")
			}
			return err
		})
	})
}

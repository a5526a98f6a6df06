package gvisor_test

import (
	"os"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

func TestSweepAfterKill(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to start sandboxes")
	sandboxtest.SweepAfterKill(t, 10, start)
}

func TestSweepKeepsRunningInstances(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to start sandboxes")
	sandboxtest.SweepLeavesTheLivingAlone(t, start)
}

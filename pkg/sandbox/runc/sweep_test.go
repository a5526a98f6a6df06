package runc_test

import (
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

func TestSweepAfterKill(t *testing.T) {
	need(t)
	sandboxtest.SweepAfterKill(t, 5, start)
}

func TestSweepKeepsRunningInstances(t *testing.T) {
	need(t)
	sandboxtest.SweepLeavesTheLivingAlone(t, start)
}

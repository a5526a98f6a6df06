package agent_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
)

func TestPrimeGivesTheAgentNoPromptAndNoToken(t *testing.T) {
	var ran []sandboxtest.Run
	sb := &sandboxtest.Fake{Program: func(r sandboxtest.Run) (sandbox.Exit, error) {
		ran = append(ran, r)
		return sandbox.Exit{Code: 1}, nil // which code it has does not matter
	}}
	c := agent.Config{Path: "/opt/claude", Home: "/home/agent", UID: 10000, GID: 10001}
	if err := c.Prime(t.Context(), sb); err != nil {
		t.Fatal(err)
	}
	if len(ran) != 1 || ran[0].Stdin != nil || ran[0].UID != 10000 || ran[0].Dir != "/tmp" {
		t.Fatalf("ran: %+v", ran)
	}
	for _, kv := range []string{"HOME=/tmp", "ANTHROPIC_API_KEY=none"} {
		if !slices.Contains(ran[0].Env, kv) {
			t.Errorf("without %s: %q", kv, ran[0].Env)
		}
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if err := c.Prime(stopped, sb); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

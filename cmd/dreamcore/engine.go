package main

import (
	"context"
	"log/slog"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/engine"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/gvisor"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/runc"
)

// newProvider makes sandboxes with the engine that the operator has named, and
// with no other: one that cannot be had is an error.
func newProvider(ctx context.Context, s state, exe string, log *slog.Logger) (*engine.Provider, error) {
	switch s.cfg.Runtime {
	case gvisor.Name:
		return gvisor.New(ctx, gvisor.Config{Exe: exe, Dir: s.path(runDir), Logger: log})
	case runc.Name:
		return runc.New(ctx, runc.Config{Exe: exe, Dir: s.path(runDir), UID: uint32(s.cfg.UID), GID: uint32(s.cfg.GID), Logger: log})
	}
	return nil, &dreamcore.Error{
		Code: dreamcore.CodeInvalid, Message: "there is no engine called " + s.cfg.Runtime,
		Hint: "use --runtime " + gvisor.Name + " or --runtime " + runc.Name,
	}
}

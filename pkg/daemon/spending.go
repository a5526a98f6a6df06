package daemon

import (
	"fmt"
	"os"

	"github.com/notef-neighbor/dreamcore/pkg/cluster/spending"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// shareSpending makes the limits of all users together those of all cells. The exchange
// begins with run; until it has succeeded once, nothing is left of these limits.
func (s *Service) shareSpending(state *State) error {
	client, err := openKubernetes(state.Config, state.env, s.log)
	if err != nil {
		return err
	}
	s.undo.addClose(func() error { client.Close(); return nil })
	name, err := os.Hostname()
	if err != nil {
		return &dreamcore.Error{Code: dreamcore.CodeSetup, Message: "share_spending needs the host name, which is the name of the cell", Err: fmt.Errorf("read it: %w", err)}
	}
	s.ledger.ShareLimits()
	s.spending = &spending.Exchange{Client: client, Cell: name, Ledger: s.ledger, Logger: s.log}
	return nil
}

//go:build cluster

package spending

import (
	"log/slog"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/cluster/kube"
	"github.com/notef-neighbor/dreamcore/pkg/cluster/kube/kubetest"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/usage"
)

// Two cells with ledgers of their own share a limit through a real API server.
func TestCellsShareALimit(t *testing.T) {
	c := kubetest.Start(t)
	prices, err := usage.ParsePrices([]string{"m in=1 out=1 write=1 read=1"})
	if err != nil {
		t.Fatal(err)
	}
	cell := func(name string) (*Exchange, *usage.Ledger) {
		client, err := kube.New(kube.Config{Server: c.Server(), Account: c.Account})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(client.Close)
		l, err := usage.Open(t.TempDir(), usage.Options{Prices: prices, Limits: usage.Limits{DayCost: 1_000_000}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
		l.ShareLimits()
		return &Exchange{Client: client, Cell: name, Ledger: l, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}, l
	}
	first, a := cell("cell-0")
	second, b := cell("cell-1")
	if err := b.Job("u", "p", "j").Check(); err == nil {
		t.Error("a cell that knows nothing of the others may spend")
	}
	exchange := func(e *Exchange) {
		t.Helper()
		if _, err := e.once(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	exchange(first)
	exchange(second)
	update, err := a.Job("u", "p", "j").Reserve("m", 1000, 0)
	if err != nil {
		t.Fatal(err)
	}
	update(dreamcore.Spent{Tokens: dreamcore.Tokens{Input: 1000}}, true)
	if err := b.Job("v", "p", "k").Check(); err != nil {
		t.Errorf("before it knows: %v", err)
	}
	exchange(first)
	// The API server's memory may be a moment behind.
	for end := time.Now().Add(10 * time.Second); b.Job("v", "p", "k").Check() == nil; time.Sleep(10 * time.Millisecond) {
		exchange(second)
		if time.Now().After(end) {
			t.Fatal("the second cell goes on spending")
		}
	}
}

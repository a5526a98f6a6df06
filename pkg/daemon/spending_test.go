package daemon

import (
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestSharedSpendingNeedsKubernetes(t *testing.T) {
	s := testState(t, func(c *config.Config) { c.ShareSpending = true })
	m, err := OpenModel(s, testLog())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	svc := &Service{Machine: &Machine{Model: m}}
	if err := svc.shareSpending(s); dreamcore.CodeOf(err) != dreamcore.CodeInvalid || !strings.Contains(dreamcore.HintOf(err), "kubernetes_api") {
		t.Errorf("outside of Kubernetes: %v", err)
	}
	s.Config.KubernetesAPI, s.Config.KubernetesAccount = "https://127.0.0.1:1", t.TempDir()
	if err := svc.shareSpending(s); dreamcore.CodeOf(err) != dreamcore.CodeSetup {
		t.Errorf("without an account: %v", err)
	}
}

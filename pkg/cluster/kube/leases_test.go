//go:build cluster

package kube

import (
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/cluster/kube/kubetest"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestLeases(t *testing.T) {
	c := &control{kubetest.Start(t), t}
	ctx, client := t.Context(), c.client(c.Account)
	if _, err := client.Lease(ctx, "a"); dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
		t.Errorf("an absent lease: %v", err)
	}
	at := time.Date(2026, 11, 30, 12, 0, 0, 123456000, time.UTC)
	want := Lease{Name: "a", Holder: "cell-0", Renewed: at, Labels: map[string]string{"l": "v"}, Annotations: map[string]string{"n": "{}"}}
	first, err := client.PutLease(ctx, want)
	if err != nil || first.Version == "" || !first.Renewed.Equal(at) || first.Holder != "cell-0" || first.Annotations["n"] != "{}" {
		t.Fatalf("%+v, %v", first, err)
	}
	if _, err := client.PutLease(ctx, want); dreamcore.CodeOf(err) != dreamcore.CodeConflict {
		t.Errorf("created twice: %v", err)
	}
	next := first
	next.Renewed, next.Annotations = at.Add(time.Second), map[string]string{"n": "2"}
	second, err := client.PutLease(ctx, next)
	if err != nil || second.Version == first.Version || second.Annotations["n"] != "2" {
		t.Fatalf("%+v, %v", second, err)
	}
	if _, err := client.PutLease(ctx, next); dreamcore.CodeOf(err) != dreamcore.CodeConflict {
		t.Errorf("an old version: %v", err)
	}
	if _, err := client.PutLease(ctx, Lease{Name: "b", Labels: map[string]string{"l": "other"}}); err != nil {
		t.Error(err)
	}
	// The API server's memory may be a moment behind.
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		all, err := client.Leases(ctx, "l", "v")
		if err == nil && len(all) == 1 && all[0].Version == second.Version && all[0].Renewed.Equal(next.Renewed) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%+v, %v", all, err)
		}
	}
}

//go:build cluster

package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/cluster/kube/kubetest"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// control is an API server that the tests use as clients.
type control struct {
	*kubetest.Control
	t *testing.T
}

func (c *control) client(account string) *Client {
	c.t.Helper()
	client, err := New(Config{Server: c.Server(), Account: account, Logger: slog.New(slog.NewTextHandler(c.t.Output(), nil))})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(client.Close)
	return client
}

// object creates an object of any kind.
func (c *control) object(path string, object any) {
	c.t.Helper()
	if err := c.client(c.Account).do(context.Background(), http.MethodPost, path, object, &struct{}{}); err != nil {
		c.t.Fatal(err)
	}
}

type object = map[string]any

func TestKube(t *testing.T) {
	c := &control{kubetest.Start(t), t}
	t.Run("replaces only what is known", c.testReplace)
	t.Run("has the rights of its account", c.testRights)
	t.Run("sees endpoints", c.testEndpoints)
	t.Run("follows over a restart of the API server", c.testRestart)
	t.Run("lists again when its version is gone", c.testGone)
}

func (c *control) testReplace(t *testing.T) {
	ctx, client := t.Context(), c.client(c.Account)
	if _, err := client.ConfigMap(ctx, "absent"); dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
		t.Errorf("an absent object: %v", err)
	}
	first, err := client.Create(ctx, ConfigMap{Name: "replaced", Data: map[string]string{"map.json": "1"}, Labels: map[string]string{"a": "b"}})
	if err != nil || first.Version == "" || first.Data["map.json"] != "1" || first.Labels["a"] != "b" {
		t.Fatalf("%+v, %v", first, err)
	}
	if _, err := client.Create(ctx, first); dreamcore.CodeOf(err) == "" || err == nil {
		t.Error("it was created twice")
	}
	if _, err := client.Create(ctx, ConfigMap{Name: "replaced"}); dreamcore.CodeOf(err) != dreamcore.CodeConflict {
		t.Errorf("created again: %v", err)
	}
	next := first
	next.Data = map[string]string{"map.json": "2"}
	second, err := client.Replace(ctx, next)
	if err != nil || second.Version == first.Version {
		t.Fatalf("%+v, %v", second, err)
	}
	if _, err := client.Replace(ctx, next); dreamcore.CodeOf(err) != dreamcore.CodeConflict {
		t.Errorf("a stale version: %v", err)
	}
	if got, err := client.ConfigMap(ctx, "replaced"); err != nil || got.Data["map.json"] != "2" || got.Version != second.Version {
		t.Errorf("%+v, %v", got, err)
	}
	// Of many writers of one version, one succeeds.
	results := make(chan error, 10)
	for i := range cap(results) {
		go func() {
			m := second
			m.Data = map[string]string{"map.json": fmt.Sprint("writer ", i)}
			_, err := client.Replace(ctx, m)
			results <- err
		}()
	}
	won := 0
	for range cap(results) {
		switch err := <-results; {
		case err == nil:
			won++
		case dreamcore.CodeOf(err) != dreamcore.CodeConflict:
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d of %d writers have succeeded", won, cap(results))
	}
}

func (c *control) testRights(t *testing.T) {
	rules := []object{
		{"apiGroups": []string{""}, "resources": []string{"configmaps"}, "verbs": []string{"get", "list", "watch"}, "resourceNames": []string{"dreamcore-cells"}},
		{"apiGroups": []string{"discovery.k8s.io"}, "resources": []string{"endpointslices"}, "verbs": []string{"get", "list", "watch"}},
	}
	const group = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/"
	c.object(group+"roles", object{"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": object{"name": "route"}, "rules": rules})
	c.object(group+"rolebindings", object{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": object{"name": "route"},
		"roleRef":  object{"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "route"},
		"subjects": []object{{"kind": "User", "name": "router", "apiGroup": "rbac.authorization.k8s.io"}},
	})
	m, err := c.client(c.Account).Create(t.Context(), ConfigMap{Name: "dreamcore-cells", Data: map[string]string{"map.json": "{}"}})
	if err != nil {
		t.Fatal(err)
	}
	account := c.NewAccount("wrongtoken")
	client := c.client(account)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	failed, seen := make(chan error, 100), make(chan ConfigMap, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		client.FollowConfigMap(ctx, "dreamcore-cells", Observer{Failed: func(err error) { failed <- err }}, func(m ConfigMap, ok bool) { seen <- m })
	}()
	if err := <-failed; dreamcore.CodeOf(err) != dreamcore.CodeUnauthorized {
		t.Errorf("a wrong token: %v", err)
	}
	// The kubelet replaces the token.
	if err := os.WriteFile(filepath.Join(account, "token"), []byte("routertoken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := <-seen; got.Version != m.Version {
		t.Errorf("%+v", got)
	}
	cancel()
	<-done
	if _, err := client.Replace(t.Context(), m); dreamcore.CodeOf(err) != dreamcore.CodeUnauthorized || dreamcore.HintOf(err) == "" {
		t.Errorf("a router may not write: %v", err)
	}
}

func (c *control) testEndpoints(t *testing.T) {
	slice := func(name, service string, port int, endpoints ...object) object {
		return object{
			"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints, "ports": []object{{"name": "http", "port": port}, {"name": "other", "port": 9}},
			"metadata": object{"name": name, "labels": object{"kubernetes.io/service-name": service}},
		}
	}
	pod := func(name, address string, serving bool) object {
		return object{"addresses": []string{address}, "hostname": name, "conditions": object{"ready": true, "serving": serving, "terminating": !serving}}
	}
	path := "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
	c.object(path, slice("cell-x", "cell", 8080, pod("cell-0", "10.0.0.9", true)))
	c.object(path, slice("other-x", "other", 8080, pod("other-0", "10.0.0.8", true)))
	ctx, cancel := context.WithCancel(t.Context())
	seen, done := make(chan []Endpoint, 100), make(chan struct{})
	go func() {
		defer close(done)
		c.client(c.Account).FollowEndpoints(ctx, "cell", Observer{}, func(e []Endpoint) { seen <- e })
	}()
	expect := func(when string, want ...Endpoint) {
		t.Helper()
		for {
			select {
			case got := <-seen:
				if slices.Equal(got, want) {
					return
				}
				t.Logf("%s: %v", when, got)
			case <-time.After(30 * time.Second):
				t.Fatalf("%s: waited in vain for %v", when, want)
			}
		}
	}
	expect("at first", Endpoint{"cell-0", "10.0.0.9:8080", true})
	c.object(path, slice("cell-y", "cell", 8081, pod("cell-1", "10.0.0.7", false)))
	expect("a second slice", Endpoint{"cell-0", "10.0.0.9:8080", true}, Endpoint{"cell-1", "10.0.0.7:8081", false})
	if err := c.client(c.Account).do(ctx, http.MethodDelete, path+"/cell-x", nil, &struct{}{}); err != nil {
		t.Fatal(err)
	}
	expect("after a deletion", Endpoint{"cell-1", "10.0.0.7:8081", false})
	cancel()
	<-done
}

func (c *control) testRestart(t *testing.T) {
	admin := c.client(c.Account)
	ctx, cancel := context.WithCancel(t.Context())
	failed, seen, done := make(chan error, 1000), make(chan ConfigMap, 100), make(chan struct{})
	go func() {
		defer close(done)
		c.client(c.Account).FollowConfigMap(ctx, "followed", Observer{Failed: func(err error) { failed <- err }}, func(m ConfigMap, ok bool) {
			if ok {
				seen <- m
			}
		})
	}()
	m, err := admin.Create(ctx, ConfigMap{Name: "followed", Data: map[string]string{"n": "0"}})
	if err != nil {
		t.Fatal(err)
	}
	next := func(n string) {
		t.Helper()
		for {
			select {
			case got := <-seen:
				if got.Data["n"] == n {
					return
				}
			case <-time.After(time.Minute):
				t.Fatalf("waited in vain for change %s", n)
			}
		}
	}
	next("0")
	for i := 1; i <= 2; i++ {
		c.StopAPI()
		<-failed
		for len(seen) > 0 {
			t.Errorf("something was seen while the API server was away: %v", <-seen)
		}
		c.StartAPI()
		m.Data = map[string]string{"n": fmt.Sprint(i)}
		if m, err = admin.Replace(ctx, m); err != nil {
			t.Fatal(err)
		}
		next(fmt.Sprint(i))
	}
	cancel()
	<-done
}

func (c *control) testGone(t *testing.T) {
	if _, err := c.client(c.Account).Create(t.Context(), ConfigMap{Name: "gone", Data: map[string]string{"n": "1"}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	failed, seen, done := make(chan error, 100), make(chan string, 100), make(chan struct{})
	client := c.client(c.Account)
	f := follower{
		client: client, path: client.path(configMaps, ""), query: map[string][]string{"fieldSelector": {"metadata.name=gone"}},
		observer: Observer{Failed: func(err error) { failed <- err }},
		objects:  map[string]json.RawMessage{}, version: "1",
		changed: func(objects map[string]json.RawMessage) { seen <- string(objects["gone"]) },
	}
	go func() {
		defer close(done)
		f.run(ctx)
	}()
	if err := <-failed; !strings.Contains(err.Error(), errGone.Error()) {
		t.Errorf("the first version: %v", err)
	}
	if got := <-seen; !strings.Contains(got, `"n":"1"`) {
		t.Errorf("after it: %s", got)
	}
	cancel()
	<-done
}

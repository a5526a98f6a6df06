//go:build cluster

package kubernetes

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/cluster/kube/kubetest"
)

// apiServer is an API server with its database.
type apiServer struct {
	t      *testing.T
	url    string
	client *http.Client
}

const token = "admintoken"

// startAPI starts an API server until the end of the test. No controller makes service
// accounts there; pods must be accepted without theirs.
func startAPI(t *testing.T) *apiServer {
	t.Helper()
	c := kubetest.Start(t, "--allow-privileged", "--disable-admission-plugins", "ServiceAccount")
	client := c.Client()
	t.Cleanup(client.CloseIdleConnections)
	return &apiServer{t: t, url: c.Server(), client: client}
}

func (s *apiServer) send(method, path string, body any) (status int, answer string, err error) {
	raw, err := json.Marshal(body)
	if err != nil {
		return 0, "", err
	}
	r, err := http.NewRequest(method, s.url+path, bytes.NewReader(raw))
	if err != nil {
		return 0, "", err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	resp, err := s.client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text) + strings.Join(resp.Header.Values("Warning"), "\n"), err
}

// plurals are the kinds of objects with their paths.
var plurals = map[string]string{
	"v1/Namespace": "/api/v1/namespaces", "v1/ServiceAccount": "serviceaccounts", "v1/ConfigMap": "configmaps", "v1/Service": "services", "v1/Pod": "pods",
	"apps/v1/StatefulSet": "statefulsets", "apps/v1/Deployment": "deployments", "apps/v1/DaemonSet": "daemonsets", "policy/v1/PodDisruptionBudget": "poddisruptionbudgets",
	"rbac.authorization.k8s.io/v1/Role": "roles", "rbac.authorization.k8s.io/v1/RoleBinding": "rolebindings",
}

// create creates an object, without unknown fields; dry: only checks it.
func (s *apiServer) create(o object, dry bool) (status int, answer string) {
	s.t.Helper()
	version, kind := at(s.t, o, "apiVersion").(string), at(s.t, o, "kind").(string)
	path := plurals[version+"/"+kind]
	if path == "" {
		s.t.Fatalf("unknown: %s/%s", version, kind)
	}
	if path[0] != '/' {
		api := "/apis/"
		if version == "v1" {
			api = "/api/"
		}
		path = api + version + "/namespaces/" + at(s.t, o, "metadata", "namespace").(string) + "/" + path
	}
	path += "?fieldValidation=Strict"
	if dry {
		path += "&dryRun=All"
	}
	status, answer, err := s.send(http.MethodPost, path, o)
	if err != nil {
		s.t.Fatal(err)
	}
	return status, answer
}

// TestTheAPIServerAcceptsTheManifests sends every object of every level. Their pods must
// be allowed in their namespaces.
func TestTheAPIServerAcceptsTheManifests(t *testing.T) {
	s := startAPI(t)
	for _, level := range Levels {
		o := Options{Image: image, Level: level, Namespace: "games-" + string(level), StorageClass: "fast", PreviewDomain: "games.example.com"}
		text, err := Manifest(o)
		if err != nil {
			t.Fatal(err)
		}
		one, err := MapManifest(o)
		if err != nil {
			t.Fatal(err)
		}
		pods := 0
		for _, o := range append(objects(t, text), objects(t, one)...) {
			kind := at(t, o, "kind").(string)
			name := fmt.Sprintf("%s: %s/%s", level, kind, at(t, o, "metadata", "name"))
			if status, answer := s.create(o, kind != "Namespace"); status != http.StatusCreated || strings.Contains(answer, "would violate") {
				t.Errorf("%s: %d %s", name, status, answer)
			}
			if kind != "StatefulSet" && kind != "Deployment" && kind != "DaemonSet" {
				continue
			}
			pods++
			pod := object{"apiVersion": "v1", "kind": "Pod", "metadata": object{"name": "a", "namespace": at(t, o, "metadata", "namespace")}, "spec": podOf(t, o)}
			if status, answer := s.create(pod, true); status != http.StatusCreated {
				t.Errorf("a pod of %s: %d %s", name, status, answer)
			}
		}
		if pods < 2 {
			t.Errorf("%s: %d kinds of pods", level, pods)
		}
	}
	// The check can fail: a namespace of unprivileged cells takes no privileged one.
	pod := podOf(t, manifest(t, Options{Image: image, Level: Privileged})["StatefulSet/cell"])
	o := object{"apiVersion": "v1", "kind": "Pod", "metadata": object{"name": "a", "namespace": "games-unprivileged"}, "spec": pod}
	if status, answer := s.create(o, true); status != http.StatusForbidden {
		t.Errorf("a privileged pod: %d %s", status, answer)
	}
}

// podOf returns the pod that a set of pods makes, with volumes for its claims.
func podOf(t *testing.T, set object) object {
	pod := at(t, set, "spec", "template", "spec").(object)
	if claims, ok := at(t, set, "spec", "volumeClaimTemplates").([]any); ok {
		for _, c := range claims {
			pod["volumes"] = append(pod["volumes"].([]any), object{"name": at(t, c, "metadata", "name"), "emptyDir": object{}})
		}
	}
	return pod
}

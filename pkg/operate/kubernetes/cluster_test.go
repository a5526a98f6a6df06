//go:build cluster

package kubernetes

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// apiServer is an API server with its database.
type apiServer struct {
	t      *testing.T
	url    string
	client *http.Client
}

const token = "admintoken"

func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
}

// startAPI starts etcd and the API server of scripts/cluster.sh until the end of the test.
func startAPI(t *testing.T) *apiServer {
	t.Helper()
	programs := os.Getenv("DREAMCORE_TEST_CLUSTER")
	if programs == "" {
		t.Fatal("run scripts/cluster.sh, which sets DREAMCORE_TEST_CLUSTER")
	}
	dir := t.TempDir()
	for name, cmd := range map[string]*exec.Cmd{
		"key":    exec.Command("openssl", "genrsa", "-out", dir+"/sa.key", "2048"),
		"tokens": exec.Command("sh", "-c", "echo "+token+",admin,admin,system:masters >"+dir+"/tokens.csv"),
	} {
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	etcd, peers, port := "http://127.0.0.1:"+freePort(t), "http://127.0.0.1:"+freePort(t), freePort(t)
	run := func(args ...string) {
		cmd := exec.Command(filepath.Join(programs, "hyper"), args...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		log, err := os.Create(filepath.Join(dir, args[0]+".log"))
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	}
	run("etcd", "--data-dir", dir+"/etcd", "--listen-client-urls", etcd, "--advertise-client-urls", etcd, "--listen-peer-urls", peers,
		"--initial-advertise-peer-urls", peers, "--initial-cluster", "default="+peers, "--unsafe-no-fsync")
	// No controller makes service accounts here; pods must be accepted without theirs.
	run("kube-apiserver", "--etcd-servers", etcd, "--secure-port", port, "--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1",
		"--service-cluster-ip-range", "10.96.0.0/16", "--cert-dir", dir+"/pki", "--service-account-issuer", "https://kubernetes.default.svc",
		"--service-account-key-file", dir+"/sa.key", "--service-account-signing-key-file", dir+"/sa.key", "--authorization-mode", "RBAC",
		"--token-auth-file", dir+"/tokens.csv", "--endpoint-reconciler-type", "none", "--allow-privileged", "--disable-admission-plugins", "ServiceAccount")
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} // on loopback, with a certificate of its own
	s := &apiServer{t: t, url: "https://127.0.0.1:" + port, client: &http.Client{Transport: transport, Timeout: 30 * time.Second}}
	t.Cleanup(transport.CloseIdleConnections)
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if status, _, err := s.send(http.MethodGet, "/api/v1/namespaces/default", nil); err == nil && status == http.StatusOK {
			return s
		}
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(dir + "/kube-apiserver.log")
			t.Fatalf("the API server does not start\n%s", log[max(0, len(log)-3000):])
		}
	}
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

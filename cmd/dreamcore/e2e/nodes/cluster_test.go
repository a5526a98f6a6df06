//go:build cluster

package nodes

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// The variables that scripts/cluster.sh sets.
const (
	runEnv     = "DREAMCORE_TEST_NODES"         // the directory of the cluster, as in scripts/cluster/nodes.sh
	programEnv = "DREAMCORE_TEST_BINARY"        // the program
	levelEnv   = "DREAMCORE_TEST_LEVEL"         // of rights; default unprivileged
	imageEnv   = "DREAMCORE_TEST_CLUSTER_IMAGE" // the reference of the image that the nodes have
)

const (
	namespace = "dreamcore"
	project   = "5e1ec7ed-0000-4000-8000-000000000001"
	uid       = 10000
	cells     = 2
	// grace is how long a request may take that is held while a cell is away.
	grace = 3 * time.Minute
)

// cluster is what scripts/cluster.sh has brought up, with the program's manifests.
type cluster struct {
	t       *testing.T
	run     string
	volumes string // directories of the cells, which both nodes can mount
	secret  string
	routes  atomic.Pointer[[]string] // addresses of the routers
	next    atomic.Uint64
}

func env(t *testing.T, name string) string {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		t.Fatalf("run scripts/cluster.sh, which sets %s", name)
	}
	return value
}

// kubectl runs kubectl, and fails the test if that fails.
func (c *cluster) kubectl(stdin string, args ...string) string {
	c.t.Helper()
	out, err := c.try(stdin, args...)
	if err != nil {
		c.t.Fatalf("kubectl %s: %v", strings.Join(args, " "), err)
	}
	return out
}

func (c *cluster) try(stdin string, args ...string) (string, error) {
	cmd := exec.Command("kubectl", args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+filepath.Join(c.run, "admin.conf"))
	cmd.Stdin = strings.NewReader(stdin)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%w\n%s%s", err, out.String(), errOut.String())
	}
	return out.String(), nil
}

// program runs the program and returns its standard output.
func (c *cluster) program(args ...string) string {
	c.t.Helper()
	cmd := exec.Command(env(c.t, programEnv), args...)
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		c.t.Fatalf("dreamcore %s: %v\n%s%s", strings.Join(args, " "), err, out, errOut.String())
	}
	return string(out)
}

// waitFor waits for a condition, and returns how long it took.
func (c *cluster) waitFor(limit time.Duration, what string, ok func() bool) time.Duration {
	c.t.Helper()
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		if ok() {
			return time.Since(began)
		}
		if time.Since(began) > limit {
			pods, _ := c.try("", "get", "pods", "-A", "-o", "wide")
			events, _ := c.try("", "get", "events", "--sort-by=.lastTimestamp")
			c.t.Fatalf("waited %v in vain for %s\n%s\n%s", limit, what, pods, events[max(0, len(events)-4000):])
		}
	}
}

// ready reports whether a pod is ready.
func (c *cluster) ready(pod string) bool {
	out, err := c.try("", "get", "pod", pod, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}{.metadata.deletionTimestamp}`)
	return err == nil && out == "True"
}

func cell(i int) string { return "cell-" + strconv.Itoa(i) }

func (c *cluster) field(pod, path string) string {
	c.t.Helper()
	return c.kubectl("", "get", "pod", pod, "-o", "jsonpath={"+path+"}")
}

// script is what the model answers. The first conversation of a project works until there
// is a file "go"; the next one finishes its work, and is only reached if the agent
// remembers the first.
const script = `{"conversations":[
	[{"text":"I begin.","tools":[{"name":"Bash","input":{"command":"echo half >half.txt; until [ -e go ]; do sleep 5; done; cat half.txt >index.html","description":"work"}}]},{"text":"done"}],
	[{"tools":[{"name":"Bash","input":{"command":"cat half.txt >index.html","description":"finish"}}]},{"text":"done"}]
]}`

// overlay is what a small cluster changes of the manifests: less memory and processors,
// and settings for many jobs at once.
const overlay = `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [printed]
patches:
  - patch: |
      apiVersion: apps/v1
      kind: StatefulSet
      metadata: {name: cell, namespace: dreamcore}
      spec:
        template:
          spec:
            initContainers: [{name: setup, resources: {requests: {cpu: 50m, memory: 256Mi}}}]
            containers: [{name: cell, resources: {requests: {cpu: 50m, memory: 256Mi}}}]
  - patch: |
      apiVersion: v1
      kind: ConfigMap
      metadata: {name: dreamcore-settings, namespace: dreamcore}
      data: {DREAMCORE_MAX_GENERATIONS: "20", DREAMCORE_WARM_AGENTS: "0", DREAMCORE_SPARE_SANDBOXES: "0", DREAMCORE_ACCEPTANCE: "off", DREAMCORE_TIMEOUT: 1500s}
`

// install applies the manifests of the program and waits until the cells serve.
func install(t *testing.T) *cluster {
	c := &cluster{t: t, run: env(t, runEnv)}
	c.volumes = filepath.Join(c.run, "volumes")
	level := os.Getenv(levelEnv)
	if level == "" {
		level = "unprivileged"
	}
	random := make([]byte, 32)
	if _, err := rand.Read(random); err != nil {
		t.Fatal(err)
	}
	c.secret = hex.EncodeToString(random)
	var volumes strings.Builder
	owner := uid
	if level != "unprivileged" {
		owner = 0
	}
	for i := range cells {
		dir := filepath.Join(c.volumes, cell(i))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "script.json"), []byte(script), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(dir, owner, owner); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&volumes, "---\napiVersion: v1\nkind: PersistentVolume\nmetadata: {name: %s}\nspec: {capacity: {storage: 1Gi}, accessModes: [ReadWriteOnce], storageClassName: test, persistentVolumeReclaimPolicy: Retain, claimRef: {namespace: %s, name: state-%[1]s}, hostPath: {path: %[3]s}}\n", cell(i), namespace, dir)
	}
	dir := t.TempDir()
	printed := filepath.Join(dir, "printed")
	flags := []string{
		"deploy", "--kubernetes", "--image", env(t, imageEnv), "--cells", strconv.Itoa(cells), "--level", level, "--storage", "1Gi", "--storage-class", "test",
		"--model-script", "/var/lib/dreamcore/script.json",
	}
	c.program(append(flags, "--output", printed)...)
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(overlay), 0o644); err != nil {
		t.Fatal(err)
	}
	c.sameManifests(printed, flags)
	began := time.Now()
	c.kubectl(volumes.String(), "apply", "-f", "-")
	c.kubectl("", "apply", "-k", dir)
	c.kubectl(c.program(append(flags, "--map")...), "create", "-f", "-")
	c.kubectl("", "create", "secret", "generic", "dreamcore", "--from-literal=modal-internal-secret.MODAL_INTERNAL_SECRET="+c.secret,
		"--from-literal=preview-key.PREVIEW_KEY="+c.secret[:32], "--from-literal=job-link-key.JOB_LINK_KEY="+c.secret[32:])
	for i := range cells {
		c.waitFor(5*time.Minute, cell(i), func() bool { return c.ready(cell(i)) })
	}
	c.waitFor(2*time.Minute, "the routers", func() bool { c.findRoutes(); return len(*c.routes.Load()) == 2 })
	c.measured("from apply until %d cells and 2 routers are ready: %v", cells, time.Since(began))
	return c
}

// measured logs a figure.
func (c *cluster) measured(format string, args ...any) {
	for i, a := range args {
		if d, ok := a.(time.Duration); ok {
			args[i] = d.Round(10 * time.Millisecond)
		}
	}
	c.t.Logf("measured: "+format, args...)
}

// sameManifests checks that the printed stream is what kustomize makes of the files.
func (c *cluster) sameManifests(dir string, flags []string) {
	c.t.Helper()
	file := filepath.Join(c.t.TempDir(), "all.yaml")
	if err := os.WriteFile(file, []byte(c.program(flags...)), 0o600); err != nil {
		c.t.Fatal(err)
	}
	objects := func(args ...string) []string {
		var all []string
		for d := json.NewDecoder(strings.NewReader(c.kubectl("", append([]string{"create", "--dry-run=client", "--output=json", "--validate=strict"}, args...)...))); d.More(); {
			var o any
			if err := d.Decode(&o); err != nil {
				c.t.Fatal(err)
			}
			raw, err := json.Marshal(o)
			if err != nil {
				c.t.Fatal(err)
			}
			all = append(all, string(raw))
		}
		slices.Sort(all)
		return all
	}
	printed, made := objects("-f", file), objects("-k", dir)
	if len(printed) < 10 || !slices.Equal(printed, made) {
		c.t.Errorf("printed:\n%s\nby kustomize:\n%s", strings.Join(printed, "\n"), strings.Join(made, "\n"))
	}
}

// findRoutes notes the addresses of the routers that are ready.
func (c *cluster) findRoutes() {
	out, err := c.try("", "get", "pods", "-l", "app.kubernetes.io/component=route", "-o",
		`jsonpath={range .items[*]}{.metadata.deletionTimestamp}|{.status.conditions[?(@.type=="Ready")].status}|{.status.podIP}{"\n"}{end}`)
	var all []string
	for line := range strings.Lines(out) {
		if ip, ok := strings.CutPrefix(strings.TrimSpace(line), "|True|"); ok && err == nil {
			all = append(all, "http://"+ip+":8080")
		}
	}
	c.routes.Store(&all)
}

// route returns the address of a router, of each in turn.
func (c *cluster) route() string {
	all := *c.routes.Load()
	return all[c.next.Add(1)%uint64(len(all))]
}

// user returns a new user of a cell.
func user(i int) string {
	for {
		if id := uuid.NewString(); dreamcore.UserID(id).Slot()*cells/dreamcore.Slots == i {
			return id
		}
	}
}

// path returns a file of a project on the volume of a cell.
func (c *cluster) path(i int, user, name string) string {
	return filepath.Join(c.volumes, cell(i), "volumes", "dreamcore-data", "users", user, "projects", project, name)
}

var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100, ResponseHeaderTimeout: grace}}

// send sends a request to a router.
func (c *cluster) send(method, path, body string, after uint64) (*http.Response, error) {
	r, err := http.NewRequest(method, c.route()+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("X-Modal-Secret", c.secret)
	r.Header.Set("Last-Event-ID", strconv.FormatUint(after, 10))
	return client.Do(r)
}

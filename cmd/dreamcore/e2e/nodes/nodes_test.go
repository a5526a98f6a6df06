//go:build cluster

package nodes

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestCells installs the program's own manifests, and checks cells behind routers: the
// gates, a restart of all cells, and a cell that is killed.
func TestCells(t *testing.T) {
	c := install(t)
	for _, tt := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"the gates pass through a router", c.testGates},
		{"the doctor finds nothing in a cell", c.testDoctor},
		{"the cells exchange their spending", c.testSpending},
		{"a user moves while being read and while a job runs", c.testMove},
		{"a rolling restart refuses nobody", c.testRollingRestart},
		{"a killed cell loses nothing", c.testKilledCell},
	} {
		t.Run(tt.name, func(t *testing.T) { c.t = t; tt.run(t) })
	}
	c.t = t
}

// TestLosses takes away routers, the API server and nodes. It runs after TestCells, on
// its cluster.
func TestLosses(t *testing.T) {
	c := installed(t)
	for _, tt := range []struct {
		name string
		run  func(t *testing.T)
	}{
		{"a killed router loses nothing", c.testKilledRouter},
		{"a cell that waits for its volume delays its own users", c.testSlowVolume},
		// After it the scheduler ends if it has missed the end of a pod; nothing restarts it.
		{"the API server may be away", c.testNoAPI},
		{"no second cell beside one that is cut off", c.testCutOff},
		{"users of a dead node are served elsewhere", c.testDeadNode},
	} {
		t.Run(tt.name, func(t *testing.T) { c.t = t; tt.run(t) })
	}
	c.t = t
}

// testMove moves a user whose file is read all the time and whose game is being made, with
// an account that may do what the page cluster says.
func (c *cluster) testMove(t *testing.T) {
	c.kubectl(`
apiVersion: v1
kind: ServiceAccount
metadata: {name: mover}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: mover}
rules:
  - {apiGroups: [""], resources: [configmaps], verbs: [get, list, watch, create, update]}
  - {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: mover}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: mover}
subjects: [{kind: ServiceAccount, name: mover}]
`, "apply", "-f", "-")
	account := t.TempDir()
	ca, err := os.ReadFile(filepath.Join(c.run, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"token": strings.TrimSpace(c.kubectl("", "create", "token", "mover")), "ca.crt": string(ca), "namespace": namespace, "secret": c.secret,
	} {
		if err := os.WriteFile(filepath.Join(account, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	api := c.kubectl("", "config", "view", "-o", "jsonpath={.clusters[0].cluster.server}")
	var following sync.WaitGroup
	j := c.startWork(1, &following, 0)[0]
	c.writeFile(user(0)) // others of the cell stay
	r := &readers{stop: make(chan struct{}), since: map[int]time.Time{}}
	t.Cleanup(r.end)
	for range 4 {
		r.running.Go(func() {
			for {
				began := time.Now()
				resp, err := c.send(http.MethodGet, "/get_file?user_id="+j.user+"&project_id="+project+"&path=half.txt", "", 0)
				if err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					_ = resp.Body.Close()
					if resp.StatusCode != http.StatusOK {
						err = errors.New(resp.Status)
					}
				}
				r.mu.Lock()
				r.reads++
				r.slowest = max(r.slowest, time.Since(began))
				if err != nil {
					r.refused = append(r.refused, err.Error())
				}
				r.mu.Unlock()
				select {
				case <-r.stop:
					return
				case <-time.After(20 * time.Millisecond):
				}
			}
		})
	}
	began := time.Now()
	out := c.program("cells", "move", j.user, "--to", cell(1), "--cut", "--json", "--kubernetes-api", api, "--kubernetes-account", account, "--secret-file", filepath.Join(account, "secret"))
	took := time.Since(began)
	j.mu.Lock()
	j.cell = 1
	j.mu.Unlock()
	c.waitFor(2*time.Minute, "the files of the user in the other cell", func() bool { _, err := os.Stat(filepath.Dir(c.path(1, j.user, "go"))); return err == nil })
	j.release(t)
	following.Wait()
	j.check(t)
	c.measured("user moved in %v while being read and while a job ran, which is done %v after the begin", took, time.Since(began))
	r.check(t)
	if !strings.Contains(out, `"users":1`) {
		t.Errorf("the move says %s", out)
	}
}

// testSpending waits for the leases of all cells, which they write with their own account.
func (c *cluster) testSpending(t *testing.T) {
	c.waitFor(time.Minute, "what the cells have spent", func() bool {
		for i := range cells {
			if out, err := c.try("", "get", "lease", "dreamcore-spent-"+cell(i), "-o", "jsonpath={.spec.renewTime}"); err != nil || out == "" {
				return false
			}
		}
		return true
	})
}

func (c *cluster) testGates(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(c.secret), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(env(t, programEnv), "gate", "--all", "--deep", "--endpoint", c.route(), "--secret-file", file)
	cmd.Env = append(os.Environ(), "DREAMCORE_ALLOW_UNLIMITED=true")
	began := time.Now()
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil || !strings.Contains(string(out), "14 of 14 gates passed") {
		t.Errorf("gates: %v", err)
	}
	c.measured("14 gates in %v", time.Since(began))
}

// testDoctor also plays a game in the browser of the image.
func (c *cluster) testDoctor(t *testing.T) {
	out, err := c.try("", "exec", cell(0), "-c", "cell", "--", "env", "DREAMCORE_ACCEPTANCE=warn", "dreamcore", "doctor")
	t.Logf("%s", out)
	if err != nil || !strings.Contains(out, "✓ browser") {
		t.Errorf("%v\n%s", err, out)
	}
}

func (c *cluster) testRollingRestart(t *testing.T) {
	const jobs, clients = 20, 20
	var following sync.WaitGroup
	all := c.startWork(jobs, &following, 0, 1)
	r := c.startReaders(clients)
	before := map[string]string{}
	for i := range cells {
		before[cell(i)] = c.field(cell(i), ".metadata.uid")
	}
	began := time.Now()
	c.kubectl("", "rollout", "restart", "statefulset/cell")
	for i := cells - 1; i >= 0; i-- { // the order of Kubernetes
		c.waitFor(2*time.Minute, "the stop of "+cell(i), func() bool { return c.field(cell(i), ".metadata.deletionTimestamp") != "" })
		time.Sleep(10 * time.Second) // it is read meanwhile
		for _, j := range all {
			if j.cell == i {
				j.release(t)
			}
		}
		c.waitFor(8*time.Minute, "the new "+cell(i), func() bool {
			id, err := c.try("", "get", "pod", cell(i), "-o", "jsonpath={.metadata.uid}")
			return err == nil && id != before[cell(i)] && c.ready(cell(i))
		})
	}
	took := time.Since(began)
	following.Wait()
	done := 0
	for _, j := range all {
		if j.check(t); j.last["type"] == "done" {
			done++
		}
	}
	c.measured("rolling restart of %d cells in %v: %d of %d running jobs done", cells, took, done, jobs)
	time.Sleep(time.Second)
	r.check(t)
	if done != jobs {
		t.Errorf("%d of %d jobs are done", done, jobs)
	}
}

func (c *cluster) testKilledCell(t *testing.T) {
	const jobs = 4
	for _, tt := range []struct {
		how  string
		kill func()
	}{
		{"its processes are killed", func() { c.killPod(cell(1)) }},
		{"its pod is deleted", func() { c.kubectl("", "delete", "pod", cell(1), "--grace-period=0", "--force") }},
	} {
		var following sync.WaitGroup
		all := c.startWork(jobs, &following, 1)
		r := c.startReaders(4)
		began := time.Now()
		tt.kill()
		following.Wait()
		var slowest time.Duration
		for _, j := range all {
			j.check(t)
			if len(j.resumed) == 0 {
				t.Errorf("%s: the stream of job %s was not cut", tt.how, j.id)
			}
			for _, d := range j.resumed {
				slowest = max(slowest, d)
			}
		}
		c.measured("%s: %d streams resume within %v of their cut; all jobs done after %v", tt.how, jobs, slowest, time.Since(began))
		if slowest > 10*time.Second {
			t.Errorf("%s: a stream resumed after %v", tt.how, slowest)
		}
		c.waitFor(time.Minute, cell(1), func() bool { return c.ready(cell(1)) })
		r.check(t)
	}
}

// killPod kills every process of the containers of a pod, but not the one that holds its
// namespaces.
func (c *cluster) killPod(pod string) {
	c.t.Helper()
	id := strings.TrimPrefix(c.field(pod, ".status.containerStatuses[0].containerID"), "containerd://")
	dirs, err := exec.Command("find", "/sys/fs/cgroup", "-type", "d", "-name", id).Output()
	if err != nil {
		c.t.Fatal(err)
	}
	killed := 0
	for dir := range strings.FieldsSeq(string(dirs)) {
		raw, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		for pid := range strings.FieldsSeq(string(raw)) {
			if n, err := strconv.Atoi(pid); err == nil && syscall.Kill(n, syscall.SIGKILL) == nil {
				killed++
			}
		}
	}
	if killed == 0 {
		c.t.Fatalf("%s has no processes in %s", pod, dirs)
	}
}

// installed returns the cluster that install has prepared.
func installed(t *testing.T) *cluster {
	c := &cluster{t: t, run: env(t, runEnv)}
	c.volumes = filepath.Join(c.run, "volumes")
	c.secret = c.kubectl("", "get", "secret", "dreamcore", "-o", `go-template={{index .data "modal-internal-secret.MODAL_INTERNAL_SECRET" | base64decode}}`)
	for i := range cells {
		c.waitFor(2*time.Minute, cell(i), func() bool { return c.ready(cell(i)) })
	}
	c.findRoutes()
	return c
}

func (c *cluster) testKilledRouter(t *testing.T) {
	r := c.startReaders(10)
	var following sync.WaitGroup
	all := c.startWork(4, &following, 0, 1)
	names := strings.Fields(c.kubectl("", "get", "pods", "-l", "app.kubernetes.io/component=route", "-o", "jsonpath={.items[*].metadata.name}"))
	gone := "http://" + c.field(names[0], ".status.podIP") + ":8080"
	c.routes.Store(ptr(slices.DeleteFunc(slices.Clone(*c.routes.Load()), func(a string) bool { return a == gone }))) // as the service does
	time.Sleep(time.Second)
	began := time.Now()
	c.kubectl("", "delete", "pod", names[0], "--grace-period=0", "--force")
	took := c.waitFor(time.Minute, "another router", func() bool { c.findRoutes(); return len(*c.routes.Load()) == 2 })
	for _, j := range all {
		j.release(t)
	}
	following.Wait()
	cut, slowest := 0, time.Duration(0)
	for _, j := range all {
		j.check(t)
		for _, d := range j.resumed {
			cut, slowest = cut+1, max(slowest, d)
		}
	}
	c.measured("router killed: another one after %v, %d of 4 streams cut, resumed within %v; all jobs done after %v", took, cut, slowest, time.Since(began))
	r.check(t)
}

func ptr[T any](v T) *T { return &v }

func (c *cluster) testNoAPI(t *testing.T) {
	r := c.startReaders(10)
	stopped := filepath.Join(c.run, "control", "stopped")
	if err := os.WriteFile(stopped, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(stopped)
	c.waitFor(10*time.Second, "the end of the API server", func() bool { _, err := c.try("", "get", "pods"); return err != nil })
	var following sync.WaitGroup
	began := time.Now()
	j := c.startWork(1, &following, 0)[0] // a whole game is made meanwhile
	j.release(t)
	following.Wait()
	j.check(t)
	took := time.Since(began)
	if err := os.Remove(stopped); err != nil {
		t.Fatal(err)
	}
	c.waitFor(2*time.Minute, "the API server", func() bool { _, err := c.try("", "get", "pods"); return err == nil })
	c.measured("API server away for %v, in which a game was made", took)
	r.check(t)
}

// testSlowVolume lets a cell wait for longer than a router holds requests, as a volume that
// attaches slowly does: its pod cannot start. Its users get an answer all the same, which
// says when to come back, and the users of the other cell notice nothing.
func (c *cluster) testSlowVolume(t *testing.T) {
	const hold = time.Minute // of the router
	u, other := user(1), user(0)
	c.writeFile(u)
	c.writeFile(other)
	var following sync.WaitGroup
	j := c.startWork(1, &following, 1)[0]
	nodes := strings.Fields(c.kubectl("", "get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"))
	c.kubectl("", append([]string{"cordon"}, nodes...)...)
	uncordon := func() { c.kubectl("", append([]string{"uncordon"}, nodes...)...) }
	defer uncordon()
	old := "http://" + c.field(cell(1), ".status.podIP") + ":8080/livez"
	c.kubectl("", "delete", "pod", cell(1), "--grace-period=0", "--force")
	c.waitFor(time.Minute, "the end of "+cell(1), func() bool {
		resp, err := http.Get(old)
		if err == nil {
			_ = resp.Body.Close()
		}
		return err != nil
	})
	began := time.Now()
	resp, err := c.send(http.MethodGet, "/get_file?user_id="+u+"&project_id="+project+"&path=index.html", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	held := time.Since(began)
	if err != nil || resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" || !strings.Contains(string(raw), "CELL_AWAY") {
		t.Errorf("after %v: %s, Retry-After %q, %s, %v", held, resp.Status, resp.Header.Get("Retry-After"), raw, err)
	}
	if held < hold/2 || held > 2*hold {
		t.Errorf("the request was held for %v", held)
	}
	if err := c.readFile(other); err != nil {
		t.Errorf("the other cell: %v", err)
	}
	began = time.Now()
	uncordon()
	c.waitFor(2*time.Minute, "the cell", func() bool { return c.readFile(u) == nil })
	back := time.Since(began)
	j.release(t)
	following.Wait()
	j.check(t)
	c.measured("a cell that waits for its volume: a request is held for %v, then 503; served %v after the volume is there, and the job that ran is done", held, back)
}

// nodeOf returns the node of a pod.
func (c *cluster) nodeOf(pod string) string { return c.field(pod, ".spec.nodeName") }

func (c *cluster) notReady(node string) bool {
	out, err := c.try("", "get", "node", node, "--no-headers")
	return err == nil && strings.Contains(out, "NotReady")
}

const taint = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"

// testCutOff cuts off a node whose cell lives on, and says wrongly that it is dead. The
// copy of the cell that starts elsewhere must refuse to serve.
func (c *cluster) testCutOff(t *testing.T) {
	node := c.nodeOf(cell(1))
	c.onlyRoutesBeside(node)
	link := "veth" + strings.TrimPrefix(node, "node")
	u := user(1)
	c.writeFile(u)
	old := c.field(cell(1), ".metadata.uid")
	c.ip("link", "set", link, "down")
	defer c.ip("link", "set", link, "up")
	took := c.waitFor(2*time.Minute, "the loss of "+node, func() bool { return c.notReady(node) })
	c.kubectl("", "taint", "node", node, taint)
	c.waitFor(2*time.Minute, "a second copy of "+cell(1), func() bool {
		out, err := c.try("", "get", "pod", cell(1), "-o", "jsonpath={.metadata.uid}")
		return err == nil && out != old
	})
	refused := c.waitFor(2*time.Minute, "the refusal", func() bool {
		for _, container := range []string{"setup", "cell"} {
			if out, err := c.try("", "logs", cell(1), "-c", container); err == nil && strings.Contains(out, "another server uses the state directory") {
				return true
			}
		}
		return false
	})
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		if c.ready(cell(1)) {
			t.Fatal("two copies of a cell serve")
		}
	}
	c.ip("link", "set", link, "up")
	c.waitFor(2*time.Minute, node, func() bool { return !c.notReady(node) })
	c.kubectl("", "taint", "node", node, taint+"-")
	back := c.waitFor(5*time.Minute, "the end of the old copy", func() bool { return c.ready(cell(1)) })
	if err := c.readFile(u); err != nil {
		t.Errorf("after it: %v", err)
	}
	c.measured("node cut off: seen after %v; the second copy refused %v after it was made, and served %v after the network was back", took, refused, back)
}

// onlyRoutesBeside leaves out the routers on a node. If all are there, one is moved.
func (c *cluster) onlyRoutesBeside(node string) {
	c.t.Helper()
	beside := func() []string {
		c.findRoutes()
		out := c.kubectl("", "get", "pods", "-l", "app.kubernetes.io/component=route", "-o", `jsonpath={range .items[*]}{.spec.nodeName} {.status.podIP}{"\n"}{end}`)
		return slices.DeleteFunc(slices.Clone(*c.routes.Load()), func(address string) bool {
			return strings.Contains(out, node+" "+strings.TrimSuffix(strings.TrimPrefix(address, "http://"), ":8080")+"\n")
		})
	}
	if len(beside()) == 0 {
		c.kubectl("", "cordon", node)
		defer c.kubectl("", "uncordon", node)
		names := strings.Fields(c.kubectl("", "get", "pods", "-l", "app.kubernetes.io/component=route", "-o", "jsonpath={.items[*].metadata.name}"))
		c.kubectl("", "delete", "pod", names[0], "--wait=false")
	}
	c.waitFor(2*time.Minute, "a router beside "+node, func() bool { return len(beside()) > 0 })
	left := beside()
	c.routes.Store(&left)
}

func (c *cluster) ip(args ...string) {
	c.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		c.t.Fatalf("ip %v: %v\n%s", args, err, out)
	}
}

// testDeadNode ends a node, and says so. Its cell starts on the other one.
func (c *cluster) testDeadNode(t *testing.T) {
	node := c.nodeOf(cell(1))
	c.onlyRoutesBeside(node)
	var following sync.WaitGroup
	j := c.startWork(1, &following, 1)[0]
	other := user(0)
	u := user(1)
	c.writeFile(u)
	raw, err := os.ReadFile(filepath.Join(c.run, node, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		t.Fatal(err)
	}
	dead := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	seen := c.waitFor(2*time.Minute, "the loss of "+node, func() bool { return c.notReady(node) })
	if c.nodeOf(cell(0)) != node {
		c.writeFile(other) // the other cell goes on
	}
	began := time.Now()
	c.kubectl("", "taint", "node", node, taint)
	served := c.waitFor(3*time.Minute, "the cell on the other node", func() bool { return c.readFile(u) == nil })
	if served > 30*time.Second {
		t.Errorf("served %v after the taint", served)
	}
	following.Wait()
	j.check(t)
	c.measured("node dead: seen after %v, served elsewhere %v after the taint; its job done %v after the taint, %v after the death", seen, served, time.Since(began), time.Since(dead))
	if now := c.nodeOf(cell(1)); now == node {
		t.Errorf("%s is still on %s", cell(1), now)
	}
	resp, err := c.send(http.MethodGet, "/users", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if raw, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		t.Error(fmt.Sprint("the list of all cells: ", resp.Status, string(raw)))
	}
}

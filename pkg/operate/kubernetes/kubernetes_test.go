package kubernetes

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/cluster/slots"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

const image = "registry.example.com/games/dreamcore:1"

// UPDATE=1 go test ./pkg/operate/kubernetes rewrites the golden files.
func TestManifestsAreGolden(t *testing.T) {
	for name, o := range map[string]Options{
		"unprivileged": {Image: image},
		"capabilities": {Image: image, Level: Capabilities, Cells: 3, Namespace: "games", StorageClass: "fast"},
		"privileged":   {Image: image, Level: Privileged, PreviewDomain: "games.example.com", ModelScript: "demo", Storage: "2Ti"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Manifest(o)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name+".yaml")
			if os.Getenv("UPDATE") == "1" {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("it differs; if that is right, run UPDATE=1 go test ./pkg/operate/kubernetes:\n%s", diff)
			}
		})
	}
}

// The test of testdata/cluster/helm lets Helm render the golden chart, and compares that
// with the golden manifest.
func TestTheChartIsGolden(t *testing.T) {
	for name, o := range map[string]Options{
		"unprivileged": {Image: image},
		"privileged":   {Image: image, Level: Privileged, PreviewDomain: "games.example.com", ModelScript: "demo", Storage: "2Ti"},
		"capabilities": {Image: image, Level: Capabilities, Cells: 3, Namespace: "games", StorageClass: "fast"},
	} {
		all, err := Chart(o)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range all {
			if strings.Contains(f.Content, "-mark") || strings.Contains(f.Content, markStorage) {
				t.Errorf("%s: a mark is left in %s", name, f.Path)
			}
			file := filepath.Join("testdata", "chart", name, filepath.FromSlash(f.Path))
			if os.Getenv("UPDATE") == "1" {
				if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(f.Content), 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), f.Content); diff != "" {
				t.Errorf("%s differs; if that is right, run UPDATE=1 go test ./pkg/operate/kubernetes:\n%s", file, diff)
			}
		}
	}
}

type object = map[string]any

// objects parses what kubectl would read.
func objects(t *testing.T, text string) (all []object) {
	t.Helper()
	for d := yaml.NewDecoder(strings.NewReader(text)); ; {
		var o object
		if err := d.Decode(&o); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, o)
	}
}

func at(t *testing.T, o any, path ...any) any {
	t.Helper()
	for _, p := range path {
		switch p := p.(type) {
		case string:
			o = o.(object)[p]
		case int:
			o = o.([]any)[p]
		}
	}
	return o
}

func manifest(t *testing.T, o Options) map[string]object {
	t.Helper()
	text, err := Manifest(o)
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]object{}
	for _, o := range objects(t, text) {
		name := at(t, o, "kind").(string) + "/" + at(t, o, "metadata", "name").(string)
		if named[name] != nil {
			t.Errorf("%s is there twice", name)
		}
		named[name] = o
	}
	return named
}

func TestEveryLevelHasItsRights(t *testing.T) {
	for _, level := range Levels {
		all := manifest(t, Options{Image: image, Level: level})
		pod := at(t, all["StatefulSet/cell"], "spec", "template", "spec")
		rights := at(t, pod, "containers", 0, "securityContext").(object)
		setup := at(t, pod, "initContainers", 0, "securityContext").(object)
		if diff := cmp.Diff(rights, setup); diff != "" {
			t.Errorf("%s: setup proves the agent with other rights than the cell has:\n%s", level, diff)
		}
		profiled := at(t, pod, "securityContext", "seccompProfile") != nil
		if _, nodes := all["DaemonSet/seccomp"]; nodes != profiled {
			t.Errorf("%s: a profile on the nodes: %v, in the pod: %v", level, nodes, profiled)
		}
		if privileged := rights["privileged"] == true; privileged != (level == Privileged) {
			t.Errorf("%s: privileged is %v", level, privileged)
		}
		enforce := at(t, all["Namespace/dreamcore"], "metadata", "labels", "pod-security.kubernetes.io/enforce")
		if (enforce == "restricted") != (level == Unprivileged) {
			t.Errorf("%s: the namespace enforces %v", level, enforce)
		}
		if root := at(t, pod, "securityContext", "runAsUser") == 0; root != (level != Unprivileged) {
			t.Errorf("%s: root is %v", level, root)
		}
		if (at(t, pod, "hostUsers") == false) != (level == Unprivileged) {
			t.Errorf("%s: hostUsers is %v", level, at(t, pod, "hostUsers"))
		}
	}
}

// The calls of the sandboxes that the default profile of containerd forbids. The source
// says which there are: a new one cannot be forgotten in the profile.
func TestTheProfileAllowsWhatSandboxesCall(t *testing.T) {
	raw, err := files.ReadFile("files/" + profileFile)
	if err != nil {
		t.Fatal(err)
	}
	var profile struct {
		Syscalls []struct {
			Names  []string
			Action string
			Args   []any
		}
	}
	if err := json.Unmarshal(raw, &profile); err != nil {
		t.Fatal(err)
	}
	allowed := map[string]bool{}
	for _, group := range profile.Syscalls {
		for _, name := range group.Names {
			allowed[name] = allowed[name] || group.Action == "SCMP_ACT_ALLOW" && len(group.Args) == 0
		}
	}
	calls := map[string]string{
		"OpenTree": "open_tree", "MoveMount": "move_mount", "MountSetattr": "mount_setattr", "Fsopen": "fsopen", "Fsconfig": "fsconfig", "Fsmount": "fsmount",
		"Fspick": "fspick", "Mount": "mount", "Unmount": "umount2", "PivotRoot": "pivot_root", "Chroot": "chroot", "Setns": "setns", "Unshare": "unshare", "Sethostname": "sethostname",
	}
	call := regexp.MustCompile(`\bunix\.(` + strings.Join(slices.Collect(maps.Keys(calls)), "|") + `)\(`)
	seen := map[string]bool{}
	err = filepath.WalkDir("../../sandbox", func(file string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(file) != ".go" || strings.HasSuffix(file, "_test.go") {
			return err
		}
		source, err := os.ReadFile(file)
		for _, m := range call.FindAllSubmatch(source, -1) {
			name := calls[string(m[1])]
			if seen[name] = true; !allowed[name] {
				t.Errorf("%s needs %s", file, name)
			}
		}
		return err
	})
	if err != nil || !seen["open_tree"] || !seen["mount"] {
		t.Errorf("%v: %v", seen, err)
	}
}

// A cell of a new version must not start with the profile that an earlier one left on
// the node: the name of the file says which it is.
func TestTheNameOfTheProfileSaysItsContent(t *testing.T) {
	for _, level := range []Level{Unprivileged, Capabilities} {
		all := manifest(t, Options{Image: image, Level: level})
		name, ok := at(t, all["StatefulSet/cell"], "spec", "template", "spec", "securityContext", "seccompProfile", "localhostProfile").(string)
		text, there := at(t, all["ConfigMap/seccomp"], "data", name).(string)
		if !ok || !there {
			t.Fatalf("%s: the cell names %q, which the nodes do not get", level, name)
		}
		sum := sha256.Sum256([]byte(text))
		if end := fmt.Sprintf("-%x.json", sum[:8]); !strings.HasSuffix(name, end) {
			t.Errorf("%s: the name of %s does not end in %s", level, name, end)
		}
		if raw, err := files.ReadFile("files/" + profileFile); err != nil || string(raw) != text {
			t.Errorf("%s: the ConfigMap has another profile: %v", level, err)
		}
		pod := at(t, all["DaemonSet/seccomp"], "spec", "template")
		if script := at(t, pod, "spec", "containers", 0, "command", 2).(string); !strings.Contains(script, "mv /node/."+name+".new /node/"+name+"\n") {
			t.Errorf("%s: %s", level, script)
		}
		if got := at(t, pod, "metadata", "annotations", "dreamcore/profile"); got != name {
			t.Errorf("%s: the pods on the nodes do not start again: %v", level, got)
		}
	}
}

// These are names of namespaces, and other things than strings in YAML, some only for
// the YAML 1.1 that kubectl reads.
func TestTheNamespaceIsAString(t *testing.T) {
	for _, namespace := range []string{"null", "true", "123", "1e5", "0x10", "yes", "on", "2026-11-30"} {
		o := Options{Image: image, Namespace: namespace, Level: Capabilities}
		text, err := Manifest(o)
		if err != nil {
			t.Fatal(err)
		}
		cells, err := MapManifest(o)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range objects(t, text+"---\n"+cells) {
			kind, name := at(t, o, "kind"), "namespace"
			if kind == "Namespace" {
				name = "name"
			}
			switch got := at(t, o, "metadata", name); got {
			case namespace, namespace + nodesSuffix:
			default:
				t.Errorf("%v: its namespace is the %T %v", kind, got, got)
			}
		}
		for line := range strings.Lines(text + cells) {
			if key, value, _ := strings.Cut(strings.TrimSpace(line), ": "); key == "namespace" && !strings.HasPrefix(value, `"`) {
				t.Errorf("%s is a string for some parsers only", strings.TrimSpace(line))
			}
		}
	}
}

// The router may read one ConfigMap and the endpoints, and nothing else.
func TestTheRouterOnlyReads(t *testing.T) {
	want := []any{
		object{"apiGroups": []any{""}, "resources": []any{"configmaps"}, "resourceNames": []any{mapName}, "verbs": []any{"get", "list", "watch"}},
		object{"apiGroups": []any{"discovery.k8s.io"}, "resources": []any{"endpointslices"}, "verbs": []any{"get", "list", "watch"}},
	}
	if diff := cmp.Diff(want, at(t, manifest(t, Options{Image: image})["Role/route"], "rules")); diff != "" {
		t.Error(diff)
	}
}

// The cells may exchange what they have spent, and nothing else; the manifests turn that
// on, because budgets are set once for all cells.
func TestTheCellsExchangeTheirSpending(t *testing.T) {
	m := manifest(t, Options{Image: image})
	want := []any{object{"apiGroups": []any{"coordination.k8s.io"}, "resources": []any{"leases"}, "verbs": []any{"get", "list", "create", "update"}}}
	if diff := cmp.Diff(want, at(t, m["Role/cell"], "rules")); diff != "" {
		t.Error(diff)
	}
	if account := at(t, m["StatefulSet/cell"], "spec", "template", "spec", "serviceAccountName"); account != "cell" {
		t.Errorf("the account of the cells is %v", account)
	}
	if shared := at(t, m["ConfigMap/dreamcore-settings"], "data", "DREAMCORE_SHARE_SPENDING"); shared != "true" {
		t.Errorf("share_spending is %v", shared)
	}
}

func TestNoManifestHasASecretOrTheMap(t *testing.T) {
	for name := range manifest(t, Options{Image: image}) {
		if strings.HasPrefix(name, "Secret/") || name == "ConfigMap/"+mapName {
			t.Errorf("%s would be written again with each apply", name)
		}
	}
}

func TestTheMapIsOne(t *testing.T) {
	for _, cells := range []int{1, 2, 3, 7, 1000, slots.MaxCells} {
		text, err := MapManifest(Options{Image: image, Cells: cells})
		if err != nil {
			t.Fatal(err)
		}
		o := objects(t, text)[0]
		m, err := slots.Decode([]byte(at(t, o, "data", mapMember).(string)))
		if err != nil || len(m.Cells()) != cells || m.Slot(dreamcore.Slots - 1)[0].Cell != m.Cells()[cells-1] {
			t.Errorf("%d cells: %v", cells, err)
		}
	}
}

func TestFieldsAreChecked(t *testing.T) {
	good := Options{Image: image}
	for flag, bad := range map[string][]func(o *Options){
		"--image": {
			func(o *Options) { o.Image = "" }, func(o *Options) { o.Image = "A b" }, func(o *Options) { o.Image = "a:" }, func(o *Options) { o.Image = "a\nb" },
			func(o *Options) { o.Image = "oci-layout:/x" }, func(o *Options) { o.Image = `a"b` }, func(o *Options) { o.Image = "a@sha256:12" }, func(o *Options) { o.Image = strings.Repeat("a", 600) },
		},
		"--namespace":      {func(o *Options) { o.Namespace = "A" }, func(o *Options) { o.Namespace = "a_b" }, func(o *Options) { o.Namespace = "-a" }, func(o *Options) { o.Namespace = strings.Repeat("a", 58) }},
		"--cells":          {func(o *Options) { o.Cells = -1 }, func(o *Options) { o.Cells = slots.MaxCells + 1 }},
		"--level":          {func(o *Options) { o.Level = "root" }},
		"--storage":        {func(o *Options) { o.Storage = "10" }, func(o *Options) { o.Storage = "0Gi" }, func(o *Options) { o.Storage = "1Gi\n" }, func(o *Options) { o.Storage = "1000000Ti" }},
		"--storage-class":  {func(o *Options) { o.StorageClass = "a b" }, func(o *Options) { o.StorageClass = strings.Repeat("a", 254) }},
		"--preview-domain": {func(o *Options) { o.PreviewDomain = "a\nb: c" }},
		"--model-script":   {func(o *Options) { o.ModelScript = strings.Repeat("a", 513) }},
	} {
		for i, change := range bad {
			o := good
			change(&o)
			_, err := Manifest(o)
			if dreamcore.CodeOf(err) != dreamcore.CodeInvalid || !strings.Contains(err.Error(), flag) || dreamcore.HintOf(err) == "" {
				t.Errorf("%s %d: %v", flag, i, err)
			}
		}
	}
	for _, name := range []string{"dreamcore", "dreamcore:1", "localhost:5000/a/b:v1.2-x", "HOST.example.com/a_b/c__d:1", "a@sha256:" + strings.Repeat("0", 64), image + "@sha256:" + strings.Repeat("a", 64)} {
		if _, err := Manifest(Options{Image: name}); err != nil {
			t.Error(err)
		}
	}
}

func run(t *testing.T, json bool, args ...string) (out string, done bool, err error) {
	t.Helper()
	var r Request
	f := pflag.NewFlagSet("deploy", pflag.ContinueOnError)
	for _, name := range []string{"root", "claude", "image", "model-script", "listen"} {
		f.String(name, "", "")
	}
	f.Bool("dry-run", false, "")
	r.AddFlags(f)
	if err := f.Parse(args); err != nil {
		t.Fatal(err)
	}
	streams, text, _ := term.Buffers("")
	streams.JSON = json
	done, err = r.Run(streams)
	return text.String(), done, err
}

func TestFlagsThatContradictEachOther(t *testing.T) {
	for _, args := range [][]string{
		{"--cells", "3"}, {"--namespace", "a"}, {"--map"}, {"--output", "a"},
		{"--kubernetes", "--image", image, "--root", "a"}, {"--kubernetes", "--image", image, "--listen", "a:1"}, {"--kubernetes", "--image", image, "--claude", "a"},
		{"--kubernetes", "--image", image, "--map", "--output", "a"}, {"--helm", "--output", "a"}, {"--kubernetes", "--image", image, "--helm"},
		{"--kubernetes", "--image", image, "--map", "--helm"}, {"--kubernetes", "--image", image, "--helm", "--output", "a", "--namespace", "b"}, {"--kubernetes"}, {"--kubernetes", "--image", image, "--cells", "0"},
	} {
		if _, done, err := run(t, false, args...); !done || dreamcore.CodeOf(err) != dreamcore.CodeInvalid || dreamcore.HintOf(err) == "" {
			t.Errorf("%q: %v, %v", args, done, err)
		}
	}
	for _, args := range [][]string{nil, {"--image", "debian:12"}, {"--root", "a"}, {"--dry-run"}} {
		if out, done, err := run(t, false, args...); done || err != nil || out != "" {
			t.Errorf("%q: %v, %v, %q", args, done, err, out)
		}
	}
}

func TestOutputIsWrittenOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	args := []string{"--kubernetes", "--image", image, "--output", dir}
	if out, _, err := run(t, false, append(args, "--dry-run")...); err != nil || !strings.Contains(out, "kind: StatefulSet") {
		t.Fatalf("%v\n%s", err, out)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("a dry run has written files")
	}
	for _, status := range []string{created, unchanged} {
		if out, _, err := run(t, true, args...); err != nil || strings.Count(out, `"status":"`+status+`"`) < 15 {
			t.Fatalf("%s: %v\n%s", status, err, out)
		}
	}
	edited := filepath.Join(dir, "base", "cell.yaml")
	if err := os.WriteFile(edited, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "map.yaml")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := run(t, false, args...); dreamcore.CodeOf(err) != dreamcore.CodeConflict || !strings.Contains(err.Error(), edited) {
		t.Errorf("an edited file: %v", err)
	}
	if raw, err := os.ReadFile(edited); err != nil || string(raw) != "mine" {
		t.Errorf("%q, %v", raw, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "map.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Error("a file was written beside one that differs")
	}
}

// A file has its name only when all of it is there: the next run would refuse a part of
// one, as a file that was edited by hand.
func TestNoPartOfAFileIsWritten(t *testing.T) {
	dir := t.TempDir()
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(watch)
	if _, err := unix.InotifyAddWatch(watch, dir, unix.IN_CREATE|unix.IN_MODIFY); err != nil {
		t.Fatal(err)
	}
	if _, _, err := run(t, true, "--kubernetes", "--image", image, "--output", dir); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64<<10)
	n, err := unix.Read(watch, buf)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for events := buf[:n]; len(events) > 0; {
		mask, length := binary.NativeEndian.Uint32(events[4:]), binary.NativeEndian.Uint32(events[12:])
		name := string(bytes.TrimRight(events[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+length], "\x00"))
		seen[name] = true
		if mask&unix.IN_MODIFY != 0 && !strings.HasPrefix(name, statefile.TempPrefix) {
			t.Errorf("%s is written in place", name)
		}
		events = events[unix.SizeofInotifyEvent+length:]
	}
	left, err := filepath.Glob(filepath.Join(dir, statefile.TempPrefix+"*"))
	if !seen["map.yaml"] || !seen["kustomization.yaml"] || len(left) > 0 || err != nil {
		t.Errorf("%v, left behind: %q, %v", seen, left, err)
	}
}

func TestPrintedForPrograms(t *testing.T) {
	out, _, err := run(t, true, "--kubernetes", "--image", image)
	if err != nil || !strings.HasPrefix(out, `{"manifest":"`) || strings.Count(out, "\n") != 1 {
		t.Errorf("%v\n%s", err, out)
	}
}

// The steps of the Dockerfile are what scripts/cluster/image.sh can carry out.
func TestTheDockerfileHasKnownSteps(t *testing.T) {
	all, err := Files(Options{Image: image})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(f File) bool { return f.Path == "image/Dockerfile" })
	for line := range strings.Lines(all[i].Content) {
		word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !slices.Contains([]string{"", "#", "FROM", "RUN", "COPY", "USER", "ENTRYPOINT"}, word) {
			t.Errorf("%q", line)
		}
	}
}

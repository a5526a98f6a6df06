package daemon

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/notef-neighbor/dreamcore/pkg/cluster/slots"
	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/operate/kubernetes"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
)

// workload is what this test reads of an object of Kubernetes.
type workload struct {
	Kind     string
	Metadata struct{ Name string }
	Data     map[string]string
	Spec     struct {
		ServiceName string
		Template    struct {
			Spec struct {
				TerminationGracePeriodSeconds int
				InitContainers, Containers    []container
			}
		}
	}
}

type container struct {
	Args  []string
	Env   []struct{ Name, Value string }
	Ports []port
}

type port struct {
	Name          string
	ContainerPort json.Number
}

func workloads(t *testing.T, o kubernetes.Options) map[string]workload {
	t.Helper()
	text, err := kubernetes.Manifest(o)
	if err != nil {
		t.Fatal(err)
	}
	one, err := kubernetes.MapManifest(o)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]workload{}
	for d := yaml.NewDecoder(strings.NewReader(text + "---\n" + one)); ; {
		var o map[string]any
		if err := d.Decode(&o); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal(o)
		var w workload
		if err == nil {
			err = json.Unmarshal(raw, &w)
		}
		if err != nil {
			t.Fatal(err)
		}
		all[w.Kind+"/"+w.Metadata.Name] = w
	}
}

// The manifests name settings that the program takes, the paths at which it answers, and
// the objects that the router reads.
func TestTheManifestsAgreeWithTheProgram(t *testing.T) {
	for _, level := range kubernetes.Levels {
		all := workloads(t, kubernetes.Options{Image: "a", Level: level, Cells: 3, PreviewDomain: "games.example.com", ModelScript: "demo"})
		m, err := slots.Decode([]byte(all["ConfigMap/"+slots.Object].Data[slots.Member]))
		if err != nil || !slices.Equal(m.Cells(), []string{"cell-0", "cell-1", "cell-2"}) {
			t.Errorf("%s: the map of cells: %v", level, err)
		}
		load := func(c container, more map[string]string) config.Config {
			var environ []string
			for name, value := range more {
				environ = append(environ, name+"="+value)
			}
			for _, v := range c.Env {
				environ = append(environ, v.Name+"="+v.Value)
			}
			cfg, err := config.Load(config.Sources{Environ: environ, Flags: map[string]any{"listen": c.Args[len(c.Args)-1]}})
			if err != nil {
				t.Fatalf("%s: %v", level, err)
			}
			for name, address := range map[string]string{"http": cfg.Listen, "metrics": cfg.MetricsListen} {
				_, number, _ := net.SplitHostPort(address)
				if !slices.Contains(c.Ports, port{name, json.Number(number)}) {
					t.Errorf("%s: port %s of %s is not in %v", level, number, name, c.Ports)
				}
			}
			return cfg
		}
		cells, route := all["StatefulSet/cell"], all["Deployment/route"]
		cell := cells.Spec.Template.Spec.Containers[0]
		cfg := load(cell, all["ConfigMap/dreamcore-settings"].Data)
		router := load(route.Spec.Template.Spec.Containers[0], nil)
		if cell.Args[0] != "serve" || route.Spec.Template.Spec.Containers[0].Args[0] != "route" || cells.Spec.Template.Spec.InitContainers[0].Args[0] != "setup" {
			t.Errorf("%s: the commands", level)
		}
		if cells.Spec.ServiceName != router.CellsService {
			t.Errorf("%s: the router looks for the service %q, and there is %q", level, router.CellsService, cells.Spec.ServiceName)
		}
		if cfg.Grace < cfg.Timeout || time.Duration(cells.Spec.Template.Spec.TerminationGracePeriodSeconds)*time.Second != cfg.Grace+45*time.Second {
			t.Errorf("%s: grace %v, timeout %v, %d s until the pod is killed", level, cfg.Grace, cfg.Timeout, cells.Spec.Template.Spec.TerminationGracePeriodSeconds)
		}
		if cfg.PreviewDomain != router.PreviewDomain || !strings.HasSuffix(router.PreviewKeyFile, "/preview-key."+secret.PreviewKey) {
			t.Errorf("%s: previews of %q and %q with the key %s", level, cfg.PreviewDomain, router.PreviewDomain, router.PreviewKeyFile)
		}
		if cfg.AllowUnlimited != (level == kubernetes.Unprivileged) || (cfg.DiskMiB > 0) != (level == kubernetes.Privileged) && level != kubernetes.Unprivileged {
			t.Errorf("%s: allow_unlimited %v, disk_mib %d", level, cfg.AllowUnlimited, cfg.DiskMiB)
		}
		if grace := time.Duration(route.Spec.Template.Spec.TerminationGracePeriodSeconds) * time.Second; grace < router.Grace+15*time.Second {
			t.Errorf("%s: a router has %v to end streams that it gives %v", level, grace, router.Grace)
		}
	}
}

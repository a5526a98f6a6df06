// Package kubernetes prints what an operator applies to a cluster: the cells, the router
// in front of them, and what they need there. The manifests are the files of the
// directory files, laid out for kustomize: a base, an overlay for each level of rights
// that a pod may have, and what the nodes need.
package kubernetes

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/cluster/slots"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/pattern"
)

// Level is which rights the pods of the cells have on their nodes.
type Level string

// The levels, from the fewest rights on.
const (
	Unprivileged Level = "unprivileged" // a user namespace, no capabilities
	Capabilities Level = "capabilities" // root with SYS_ADMIN and a few more
	Privileged   Level = "privileged"   // root of the node
)

// Levels are all levels.
var Levels = []Level{Unprivileged, Capabilities, Privileged}

// What the manifests share with the program. Tests compare them with its constants.
const (
	Grace       = 300 * time.Second // of running jobs: the default of the setting timeout
	stopMargin  = 45 * time.Second  // after it, to end sandboxes and open requests
	port        = 8080
	metricsPort = 9090
	user        = 10000 // of the image
	state       = "/var/lib/" + dreamcore.AppName
	secretsDir  = "/etc/dreamcore/secrets"
	previewDir  = "/etc/dreamcore/preview"
	secretName  = dreamcore.AppName
	previewFile = "preview-key.PREVIEW_KEY"
	seccompDir  = "/var/lib/kubelet/seccomp"
)

// Options are what the manifests are made for. An empty field other than Image has its
// default.
type Options struct {
	Image         string // of the cells and the routers, as in "docker pull"
	Namespace     string
	Cells         int
	Level         Level
	Storage       string // size of the volume of each cell, such as 100Gi
	StorageClass  string // "" for the default of the cluster
	PreviewDomain string // as the setting preview_domain; "" for no previews
	ModelScript   string // as the setting model_script
}

func invalid(hint, format string, args ...any) error {
	return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: fmt.Sprintf(format, args...), Hint: hint}
}

var (
	// A reference of an image: [HOST[:PORT]/]PATH[:TAG][@sha256:DIGEST].
	imagePattern     = pattern.New(`^(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?(?::[0-9]{1,5})?/)?[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*(?::[\w][\w.-]{0,127})?(?:@sha256:[0-9a-f]{64})?$`)
	namespacePattern = pattern.New(`^[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$`)
	classPattern     = pattern.New(`^[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?$`)
	storagePattern   = pattern.New(`^[1-9][0-9]{0,5}[MGT]i$`)
)

const (
	maxImage     = 512
	maxNamespace = 63 - len(nodesSuffix)
	maxClass     = 253
	maxText      = 512
	nodesSuffix  = "-nodes" // of the namespace of what writes to nodes
)

// defaults returns the options with the defaults filled in.
func (o Options) defaults() Options {
	if o.Namespace == "" {
		o.Namespace = dreamcore.AppName
	}
	if o.Cells == 0 {
		o.Cells = 2
	}
	if o.Level == "" {
		o.Level = Unprivileged
	}
	if o.Storage == "" {
		o.Storage = "100Gi"
	}
	return o
}

// check returns the first fault of the options; it names the flag.
func (o Options) check() error {
	switch {
	case o.Image == "":
		return invalid("choose the name that it has in your registry: --image HOST/NAME:TAG (--output DIR writes a Dockerfile for it)",
			"--image is missing: Kubernetes takes the program from an image")
	case len(o.Image) > maxImage || !imagePattern().MatchString(o.Image):
		return invalid("write it as your registry does: --image HOST/NAME:TAG or HOST/NAME@sha256:…", "--image %.200q is not the name of an image", o.Image)
	case len(o.Namespace) > maxNamespace || !namespacePattern().MatchString(o.Namespace):
		return invalid(fmt.Sprintf("use lower-case letters, digits and -, at most %d characters", maxNamespace), "--namespace %.100q is not the name of a namespace", o.Namespace)
	case o.Cells < 1 || o.Cells > slots.MaxCells:
		return invalid("one cell fills one machine; two survive the loss of one", "--cells %d is not between 1 and %d", o.Cells, slots.MaxCells)
	case !slices.Contains(Levels, o.Level):
		return invalid("use unprivileged, capabilities or privileged; the page kubernetes compares them", "--level %.100q does not exist", o.Level)
	case !storagePattern().MatchString(o.Storage):
		return invalid("write a number and Mi, Gi or Ti: --storage 100Gi", "--storage %.100q is not the size of a volume", o.Storage)
	case o.StorageClass != "" && (len(o.StorageClass) > maxClass || !classPattern().MatchString(o.StorageClass)):
		return invalid("see: kubectl get storageclass", "--storage-class %.100q is not the name of a storage class", o.StorageClass)
	}
	for flag, value := range map[string]string{"preview-domain": o.PreviewDomain, "model-script": o.ModelScript} {
		if len(value) > maxText || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return invalid("see the page configure", "--%s has more than %d characters, or control characters", flag, maxText)
		}
	}
	return nil
}

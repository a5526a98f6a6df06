package kubernetes

import (
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Options of a chart that are its values are replaced by marks, which no option of an
// operator can be, before the manifest is made; then the marks become expressions of the
// chart.
const (
	markNamespace = "chart-namespace-mark"
	markImage     = "chart-image-mark"
	markStorage   = "999999Ti"
	markClass     = "chart-class-mark"
	markPreview   = "chart-preview-mark"
	markCells     = 997
	markSettings  = "chart-settings-mark"
)

const (
	settingsName = "dreamcore-settings"
	chartFile    = `# The cells of dreamcore and the routers in front of them, at the level {{.Level}}.
apiVersion: v2
name: dreamcore
description: A service that makes browser games from wishes, in sandboxes
type: application
version: 1.0.0
`
	valuesFile = `# The image of cells and routers: see image/Dockerfile of
# "dreamcore deploy --kubernetes --output DIR".
image: {{quote .Image}}
# How many cells there are. "dreamcore cells scale" says when to change it: before a cell
# is taken away, its users must move.
cells: {{.Cells}}
# Of the volume of each cell. Both are fixed when the cells are installed: Kubernetes
# refuses a change of a StatefulSet's volumes.
storage: {{.Storage}}
{{- if .StorageClass}}
storageClass: {{quote .StorageClass}}
{{- end}}
# How long a cell may take to stop: the setting grace and 45 seconds. Change both together.
terminationGracePeriodSeconds: {{.Termination}}
# Settings of the cells, as in config.yaml: DREAMCORE_ and the key in capitals. After a
# change: kubectl rollout restart statefulset/cell. For previews make the chart with
# --preview-domain, which the routers need too.
settings:
`
	notesFile = `These steps are done once:

1. Say which pods the namespace allows, or its pods may be refused:
   kubectl label namespace {{"{{ .Release.Namespace }}"}} pod-security.kubernetes.io/enforce={{if eq .Level "unprivileged"}}restricted{{else}}privileged{{end}}
2. Create the Secret ` + secretName + ` there (see: dreamcore help kubernetes).
3. Create the map of cells:
   dreamcore deploy --kubernetes --image {{"{{ .Values.image }}"}} --namespace {{"{{ .Release.Namespace }}"}} --cells {{"{{ .Values.cells }}"}} --map | kubectl create -f -

Clients use the service route, port 80.
`
)

// Chart returns the files of a Helm chart, sorted by path. Its level, and whether it has
// previews and a storage class, are fixed; the rest are values. An error names the flag.
func Chart(o Options) ([]File, error) {
	o = o.defaults()
	if err := o.check(); err != nil {
		return nil, err
	}
	marked := o
	marked.Namespace, marked.Image, marked.Storage, marked.Cells = markNamespace, markImage, markStorage, markCells
	if o.StorageClass != "" {
		marked.StorageClass = markClass
	}
	if o.PreviewDomain != "" {
		marked.PreviewDomain = markPreview
	}
	objects, err := marked.objects()
	if err != nil {
		return nil, err
	}
	// The namespace is that of the release, which Helm makes.
	objects = slices.DeleteFunc(objects, func(o *yaml.Node) bool { return identity(o) == "Namespace/"+markNamespace })
	i := slices.IndexFunc(objects, func(o *yaml.Node) bool { return identity(o) == "ConfigMap/"+settingsName })
	data := member(objects[i].Content[0], "data")
	settings, err := encode([]*yaml.Node{data})
	if err != nil {
		return nil, err
	}
	settings = strings.ReplaceAll(settings, strconv.Quote(markPreview), strconv.Quote(o.PreviewDomain))
	*data = yaml.Node{Kind: yaml.ScalarNode, Value: markSettings}
	text, err := encode(objects)
	if err != nil {
		return nil, err
	}
	text = strings.NewReplacer(
		" "+markSettings, "\n  {{- range $key, $value := .Values.settings }}\n  {{ $key }}: {{ if kindIs \"float64\" $value }}{{ printf \"%.12g\" $value | quote }}{{ else }}{{ $value | toString | quote }}{{ end }}\n  {{- end }}",
		"terminationGracePeriodSeconds: "+strconv.Itoa(seconds(Grace+stopMargin)), "terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}",
		strconv.Quote(markImage), "{{ .Values.image | quote }}",
		strconv.Quote(markClass), "{{ .Values.storageClass | quote }}",
		strconv.Quote(markPreview), "{{ .Values.settings.DREAMCORE_PREVIEW_DOMAIN | quote }}",
		markStorage, "{{ .Values.storage }}",
		"replicas: "+strconv.Itoa(markCells), "replicas: {{ .Values.cells }}",
		markNamespace, "{{ .Release.Namespace }}",
	).Replace(text)
	v, err := o.values()
	if err != nil {
		return nil, err
	}
	return []File{
		{"Chart.yaml", render("Chart.yaml", chartFile, v)},
		{"templates/NOTES.txt", render("NOTES.txt", notesFile, v)},
		{"templates/dreamcore.yaml", text},
		{"values.yaml", render("values.yaml", valuesFile, v) + indent(2, settings) + "\n"},
	}, nil
}

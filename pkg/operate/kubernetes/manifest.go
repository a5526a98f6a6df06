package kubernetes

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/notef-neighbor/dreamcore/pkg/cluster/slots"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// files are the manifests. They are templates of text, and say why a line is there.
//
//go:embed files
var files embed.FS

// The object with the map of cells, and the service whose pods are the cells, as the
// router looks for them.
const (
	mapName   = "dreamcore-cells"
	mapMember = "map.json"
	service   = "cell"
)

// values are what the templates fill in.
type values struct {
	Options
	NodesNamespace, Service, State             string
	MapName, MapMember, Map                    string
	SecretName, SecretsDir                     string
	PreviewDir, PreviewFile                    string
	Profile, ProfileText                       string
	SeccompDir                                 string
	Port, MetricsPort, UID, Grace, Termination int
}

// File is a file of the manifests. Path is relative to their directory.
type File struct {
	Path    string `json:"path"`
	Content string `json:"content"`
}

const profileFile = "nodes/" + profileName + ".json"

// profileName begins the name of the profile on the nodes, which ends in its sum: cells
// of two versions find their own ones, also in the middle of an upgrade.
const profileName = "dreamcore-cell"

// Files returns all files, for kustomize and for building the image, sorted by path. An
// error names the flag.
func Files(o Options) ([]File, error) {
	o = o.defaults()
	if err := o.check(); err != nil {
		return nil, err
	}
	v, err := o.values()
	if err != nil {
		return nil, err
	}
	var all []File
	err = fs.WalkDir(files, "files", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := files.ReadFile(name)
		if err != nil {
			return err
		}
		name = strings.TrimPrefix(name, "files/")
		if name != profileFile { // it is in a ConfigMap
			all = append(all, File{name, render(name, string(raw), v)})
		}
		return nil
	})
	return all, err
}

func (o Options) values() (values, error) {
	m, err := initialMap(o.Cells)
	if err != nil {
		return values{}, err
	}
	seccomp, err := files.ReadFile("files/" + profileFile)
	if err != nil {
		return values{}, err
	}
	sum := sha256.Sum256(seccomp)
	profile := fmt.Sprintf("%s-%x.json", profileName, sum[:8])
	return values{
		Options: o, NodesNamespace: o.Namespace + nodesSuffix, Service: service, State: state, MapName: mapName, MapMember: mapMember, Map: m,
		SecretName: secretName, SecretsDir: secretsDir, PreviewDir: previewDir, PreviewFile: previewFile,
		Profile: profile, ProfileText: string(seccomp), SeccompDir: seccompDir,
		Port: port, MetricsPort: metricsPort, UID: user, Grace: seconds(Grace), Termination: seconds(Grace + stopMargin),
	}, nil
}

func seconds(d time.Duration) int { return int(d / time.Second) }

// initialMap returns a map of cells that share the slots evenly.
func initialMap(cells int) (string, error) {
	names, ranges := make([]string, cells), map[string]string{}
	for i := range names {
		names[i] = service + "-" + strconv.Itoa(i)
	}
	even, err := slots.Even(names)
	if err != nil {
		return "", err
	}
	for first, slot := 0, 0; slot < dreamcore.Slots; slot++ {
		name := even.Slot(slot)[0].Cell
		if slot+1 == dreamcore.Slots || even.Slot(slot + 1)[0].Cell != name {
			ranges[name], first = fmt.Sprintf("%d-%d", first, slot), slot+1
		}
	}
	raw, err := json.Marshal(struct {
		Generation int               `json:"generation"`
		Cells      []string          `json:"cells"`
		Slots      map[string]string `json:"slots"`
	}{1, names, ranges})
	return string(raw), err
}

// render fills in a template. It cannot fail: the templates are constant and tested.
func render(name, text string, v values) string {
	var b bytes.Buffer
	t := template.Must(template.New(name).Funcs(template.FuncMap{"quote": strconv.Quote, "indent": indent}).Parse(text))
	_ = t.Execute(&b, v)
	return b.String()
}

// indent indents each line by n spaces.
func indent(n int, text string) string {
	space := strings.Repeat(" ", n)
	return space + strings.ReplaceAll(strings.TrimSuffix(text, "\n"), "\n", "\n"+space)
}

// Manifest returns all objects but the map of cells as one stream of YAML, as "kubectl
// kustomize" makes it of the files: the level's patch applied to the base.
func Manifest(o Options) (string, error) {
	objects, err := o.objects()
	if err != nil {
		return "", err
	}
	return encode(objects)
}

// objects returns what Manifest prints.
func (o Options) objects() ([]*yaml.Node, error) {
	all, err := Files(o)
	if err != nil {
		return nil, err
	}
	m := merger{files: map[string]string{}}
	for _, f := range all {
		m.files[f.Path] = f.Content
	}
	return m.build(".")
}

// MapManifest returns the object with the map of cells, which is created once.
func MapManifest(o Options) (string, error) {
	all, err := Files(o)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(all, func(f File) bool { return f.Path == "map.yaml" })
	return all[i].Content, nil
}

func encode(objects []*yaml.Node) (string, error) {
	var b strings.Builder
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	for _, o := range objects {
		if err := e.Encode(o); err != nil {
			return "", err
		}
	}
	return b.String(), e.Close()
}

// merger does the part of kustomize that the manifests use: resources, and strategic
// merge patches of one object each.
type merger struct{ files map[string]string }

type kustomization struct {
	Resources []string
	Patches   []struct{ Path string }
}

// build returns the objects of a directory.
func (m merger) build(dir string) (objects []*yaml.Node, err error) {
	var k kustomization
	if err := yaml.Unmarshal([]byte(m.files[path.Join(dir, "kustomization.yaml")]), &k); err != nil {
		return nil, err
	}
	for _, r := range k.Resources {
		name := path.Join(dir, r)
		more, err := m.build(name)
		if path.Ext(name) == ".yaml" {
			more, err = decode(m.files[name])
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		objects = append(objects, more...)
	}
	for _, p := range k.Patches {
		patches, err := decode(m.files[path.Join(dir, p.Path)])
		if err != nil {
			return nil, err
		}
		for _, patch := range patches {
			i := slices.IndexFunc(objects, func(o *yaml.Node) bool { return identity(o) == identity(patch) })
			if i < 0 {
				return nil, fmt.Errorf("%s patches what is not there", p.Path)
			}
			merge(objects[i].Content[0], patch.Content[0])
		}
	}
	return objects, nil
}

// decode returns the documents of a file, without aliases.
func decode(text string) (all []*yaml.Node, err error) {
	d := yaml.NewDecoder(strings.NewReader(text))
	for {
		n := new(yaml.Node)
		switch err := d.Decode(n); err {
		case nil:
			all = append(all, expand(n))
		case io.EOF:
			return all, nil
		default:
			return nil, err
		}
	}
}

// expand returns a copy of a node in which aliases are replaced by what they name.
func expand(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return expand(n.Alias)
	}
	out := *n
	out.Anchor, out.Content = "", make([]*yaml.Node, len(n.Content))
	for i, c := range n.Content {
		out.Content[i] = expand(c)
	}
	return &out
}

// member returns a member of a mapping, or nil.
func member(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

func text(n *yaml.Node) string {
	if n == nil {
		return ""
	}
	return n.Value
}

// identity returns the kind and name of a document.
func identity(doc *yaml.Node) string {
	o := doc.Content[0]
	return text(member(o, "kind")) + "/" + text(member(member(o, "metadata"), "name"))
}

// merge merges a patch into a mapping: mappings member by member, lists of named things
// by name, everything else is replaced.
func merge(into, patch *yaml.Node) {
	for i := 0; i < len(patch.Content); i += 2 {
		key, value := patch.Content[i], patch.Content[i+1]
		have := member(into, key.Value)
		switch {
		case have == nil:
			into.Content = append(into.Content, key, value)
		case have.Kind == yaml.MappingNode && value.Kind == yaml.MappingNode:
			merge(have, value)
		case have.Kind == yaml.SequenceNode && value.Kind == yaml.SequenceNode && named(value):
			mergeNamed(have, value)
		default:
			*have = *value
		}
	}
}

// mergeNamed merges the items of lists by name; new ones come first, as in kustomize.
func mergeNamed(into, patch *yaml.Node) {
	var added []*yaml.Node
	for _, item := range patch.Content {
		name := text(member(item, "name"))
		i := slices.IndexFunc(into.Content, func(n *yaml.Node) bool { return text(member(n, "name")) == name })
		if i < 0 {
			added = append(added, item)
		} else {
			merge(into.Content[i], item)
		}
	}
	into.Content = append(added, into.Content...)
}

// named reports whether every item of a list has a name.
func named(list *yaml.Node) bool {
	return !slices.ContainsFunc(list.Content, func(n *yaml.Node) bool { return member(n, "name") == nil })
}

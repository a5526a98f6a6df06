package kubernetes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

// Request is what the flags of "dreamcore deploy" say about Kubernetes.
type Request struct {
	flags     *pflag.FlagSet
	requested bool
	onlyMap   bool
	chart     bool
	output    string
	level     string
	options   Options
}

const (
	flagKubernetes = "kubernetes"
	flagImage      = "image"
	flagScript     = "model-script"
	flagDryRun     = "dry-run"
)

// ownFlags need --kubernetes; sharedFlags may come with it. Others contradict it.
var (
	ownFlags    = []string{"namespace", "cells", "level", "storage", "storage-class", "preview-domain", "output", "map", "helm"}
	sharedFlags = []string{flagKubernetes, flagImage, flagScript, flagDryRun, "json", "log-level", "yes"}
)

// AddFlags adds the flags to those of a command.
func (r *Request) AddFlags(f *pflag.FlagSet) {
	r.flags = f
	f.BoolVar(&r.requested, flagKubernetes, false, "print manifests for Kubernetes, whose cells run --image, instead of installing here")
	f.StringVar(&r.options.Namespace, "namespace", "", "with --kubernetes: the namespace (default dreamcore)")
	f.IntVar(&r.options.Cells, "cells", 0, "with --kubernetes: how many cells there are, each with its own users (default 2)")
	f.StringVar(&r.level, "level", "", "with --kubernetes: rights of the cells: unprivileged, capabilities or privileged (default unprivileged)")
	f.StringVar(&r.options.Storage, "storage", "", "with --kubernetes: size of the volume of each cell (default 100Gi)")
	f.StringVar(&r.options.StorageClass, "storage-class", "", "with --kubernetes: class of these volumes (default: that of the cluster)")
	f.StringVar(&r.options.PreviewDomain, "preview-domain", "", "with --kubernetes: the setting preview_domain of cells and routers (default: no previews)")
	f.StringVarP(&r.output, "output", "o", "", "with --kubernetes: write the files for kustomize and the Dockerfile into this directory")
	f.BoolVar(&r.chart, "helm", false, "with --kubernetes and --output: write a Helm chart instead of files for kustomize")
	f.BoolVar(&r.onlyMap, "map", false, "with --kubernetes: print only the map of cells, which is created once")
}

// Run executes the request; done is false if it is not about Kubernetes.
func (r *Request) Run(io *term.IO) (done bool, err error) {
	if err := r.checkFlags(); err != nil || !r.requested {
		return err != nil, err
	}
	o := r.options
	o.Level, o.Image, o.ModelScript = Level(r.level), r.value(flagImage), r.value(flagScript)
	if r.flags.Changed("cells") && o.Cells == 0 {
		o.Cells = -1 // not the default
	}
	if r.output != "" {
		return true, r.write(io, o)
	}
	manifest := Manifest
	if r.onlyMap {
		manifest = MapManifest
	}
	text, err := manifest(o)
	if err != nil {
		return true, err
	}
	if io.JSON {
		return true, io.WriteJSON(struct {
			Manifest string `json:"manifest"`
		}{text})
	}
	return true, io.WriteLine([]byte(strings.TrimSuffix(text, "\n")))
}

func (r *Request) value(flag string) string {
	value, _ := r.flags.GetString(flag) // "" if the command has no such flag
	return value
}

// checkFlags refuses flags that have no effect together.
func (r *Request) checkFlags() (err error) {
	r.flags.Visit(func(f *pflag.Flag) {
		switch own := slices.Contains(ownFlags, f.Name); {
		case err != nil:
		case own && !r.requested:
			err = invalid("add --kubernetes, or omit it", "--%s is only for Kubernetes", f.Name)
		case !own && r.requested && !slices.Contains(sharedFlags, f.Name):
			err = invalid("omit it: cells have their settings in the ConfigMap dreamcore-settings and their secrets in the Secret "+secretName, "--%s has no effect with --kubernetes", f.Name)
		}
	})
	switch {
	case err != nil:
	case r.onlyMap && r.chart:
		err = invalid("omit one of them: the chart says how the map is made", "--map and --helm exclude each other")
	case r.onlyMap && r.output != "":
		err = invalid("omit --map: --output writes map.yaml too", "--map and --output exclude each other")
	case r.chart && r.flags.Changed("namespace"):
		err = invalid("omit it, and name it for helm install", "--namespace has no effect with --helm: the namespace is that of the release")
	case r.chart && r.output == "":
		err = invalid("add --output DIR", "--helm writes files, and --output is missing")
	}
	return err
}

// Result lists the files that were written.
type Result struct {
	DryRun    bool    `json:"dry_run,omitempty"`
	Directory string  `json:"directory"`
	Files     []State `json:"files"`
}

// State is a file that was written, or was there already.
type State struct {
	Path   string `json:"path"`
	Status string `json:"status"` // created or unchanged
	File   string `json:"content,omitempty"`
}

// write writes the files. It never changes one that exists.
func (r *Request) write(io *term.IO, o Options) error {
	files := Files
	if r.chart {
		files = Chart
	}
	all, err := files(o)
	if err != nil {
		return err
	}
	dry, _ := r.flags.GetBool(flagDryRun)
	result := Result{DryRun: dry, Directory: r.output}
	for _, f := range all { // all are looked at before any is written
		s, err := r.state(f)
		if err != nil {
			return err
		}
		if dry {
			s.File = f.Content
		}
		result.Files = append(result.Files, s)
	}
	for i, f := range all {
		if dry || result.Files[i].Status == unchanged {
			continue
		}
		host := r.host(f)
		err := os.MkdirAll(filepath.Dir(host), 0o755)
		if err == nil {
			err = create(host, f.Content)
		}
		if err != nil {
			return outputFault(host, err)
		}
	}
	if io.JSON {
		return io.WriteJSON(result)
	}
	show(io.Stdout(), result, r.chart)
	return nil
}

// create writes a file that does not exist yet: all of it, or nothing.
func create(host, content string) error {
	dir, err := os.OpenRoot(filepath.Dir(host))
	if err != nil {
		return err
	}
	return errors.Join(statefile.Create(dir, filepath.Base(host), 0o644, statefile.Bytes([]byte(content))), dir.Close())
}

const (
	created   = "created"
	unchanged = "unchanged"
)

func (r *Request) host(f File) string { return filepath.Join(r.output, filepath.FromSlash(f.Path)) }

// state compares a file with the one that exists.
func (r *Request) state(f File) (State, error) {
	host := r.host(f)
	have, err := os.ReadFile(host)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return State{Path: f.Path, Status: created}, nil
	case err != nil:
		return State{}, outputFault(host, err)
	case string(have) != f.Content:
		return State{}, &dreamcore.Error{
			Code: dreamcore.CodeConflict, Message: host + " exists and differs",
			Hint: "write into an empty directory with --output and compare the two; your own changes belong into an overlay of your own",
		}
	}
	return State{Path: f.Path, Status: unchanged}, nil
}

func outputFault(host string, err error) error {
	return &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "cannot write " + host, Err: err, Hint: "name another directory with --output"}
}

func show(p *term.Printer, r Result, chart bool) {
	for _, f := range r.Files {
		mark := term.Done
		if f.Status == unchanged {
			mark = term.Skipped
		} else if r.DryRun {
			mark = term.Note
		}
		p.Status(mark, f.Path, f.Status)
		for line := range strings.Lines(f.File) {
			p.Print("    " + strings.TrimRight(line, "\n"))
		}
	}
	switch {
	case r.DryRun:
	case chart:
		p.Hint(fmt.Sprintf("run: helm install dreamcore %s --namespace dreamcore --create-namespace; it says what comes next", r.Directory))
	default:
		p.Hint(fmt.Sprintf("create the Secret %s (see: dreamcore help kubernetes), then run: kubectl apply -k %s && kubectl create -f %s", secretName, r.Directory, filepath.Join(r.Directory, "map.yaml")))
	}
}

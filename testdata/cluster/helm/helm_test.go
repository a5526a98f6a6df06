// Package helm renders the golden charts of the program with Helm's own engine, and
// compares them with the golden manifests. It is a module of its own: what only a test
// needs must not decide the versions of what the program is built from.
package helm

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
)

const golden = "../../../pkg/operate/kubernetes/testdata"

// render returns the objects of a chart by kind and name, and its notes.
func render(t *testing.T, name, namespace string, values map[string]any) (objects map[string]any, notes string) {
	t.Helper()
	c, err := loader.Load(filepath.Join(golden, "chart", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	all, err := util.ToRenderValues(c, values, common.ReleaseOptions{Name: "dreamcore", Namespace: namespace, IsInstall: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	files, err := engine.Render(c, all)
	if err != nil {
		t.Fatal(err)
	}
	return decode(t, files["dreamcore/templates/dreamcore.yaml"]), files["dreamcore/templates/NOTES.txt"]
}

func decode(t *testing.T, text string) map[string]any {
	t.Helper()
	objects := map[string]any{}
	for d := yaml.NewDecoder(strings.NewReader(text)); ; {
		var o map[string]any
		if err := d.Decode(&o); errors.Is(err, io.EOF) {
			return objects
		} else if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		objects[o["kind"].(string)+"/"+o["metadata"].(map[string]any)["name"].(string)] = o
	}
}

func TestHelmRendersTheManifests(t *testing.T) {
	for name, namespace := range map[string]string{"unprivileged": "dreamcore", "capabilities": "games", "privileged": "dreamcore"} {
		raw, err := os.ReadFile(filepath.Join(golden, name+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		want := decode(t, string(raw))
		delete(want, "Namespace/"+namespace) // Helm makes it
		got, notes := render(t, name, namespace, nil)
		if len(want) < 10 || len(got) != len(want) {
			t.Errorf("%s: %d objects, want %d", name, len(got), len(want))
		}
		for id, o := range want {
			if !reflect.DeepEqual(got[id], o) {
				t.Errorf("%s: %s is\n%v, want\n%v", name, id, got[id], o)
			}
		}
		if !strings.Contains(notes, "--namespace "+namespace+" ") {
			t.Errorf("%s: the notes are\n%s", name, notes)
		}
	}
}

func TestValuesOfTheOperatorHold(t *testing.T) {
	all, _ := render(t, "privileged", "mine", map[string]any{
		"image": "registry.example.com/mine:2", "cells": 5, "storage": "7Gi", "terminationGracePeriodSeconds": 55,
		"settings": map[string]any{"DREAMCORE_BUDGET_DAY_USD": 200, "DREAMCORE_SHARE_SPENDING": false, "DREAMCORE_TIMEOUT": 0.5, "DREAMCORE_LINES": float64(1_000_000), "DREAMCORE_GRACE": "10s", "DREAMCORE_PREVIEW_DOMAIN": "g.example.com"},
	})
	at := func(o any, path ...any) any {
		for _, p := range path {
			switch p := p.(type) {
			case string:
				o = o.(map[string]any)[p]
			case int:
				o = o.([]any)[p]
			}
		}
		return o
	}
	set := all["StatefulSet/cell"]
	for what, pair := range map[string][2]any{
		"cells":   {at(set, "spec", "replicas"), 5},
		"image":   {at(set, "spec", "template", "spec", "containers", 0, "image"), "registry.example.com/mine:2"},
		"storage": {at(set, "spec", "volumeClaimTemplates", 0, "spec", "resources", "requests", "storage"), "7Gi"},
		"budget":  {at(all["ConfigMap/dreamcore-settings"], "data", "DREAMCORE_BUDGET_DAY_USD"), "200"},
		"grace":   {at(all["ConfigMap/dreamcore-settings"], "data", "DREAMCORE_GRACE"), "10s"},
		"shared":  {at(all["ConfigMap/dreamcore-settings"], "data", "DREAMCORE_SHARE_SPENDING"), "false"},
		"half":    {at(all["ConfigMap/dreamcore-settings"], "data", "DREAMCORE_TIMEOUT"), "0.5"},
		"million": {at(all["ConfigMap/dreamcore-settings"], "data", "DREAMCORE_LINES"), "1000000"},
		"stop":    {at(set, "spec", "template", "spec", "terminationGracePeriodSeconds"), 55},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: %v (%T), want %v", what, pair[0], pair[0], pair[1])
		}
	}
	router, err := yaml.Marshal(all["Deployment/route"])
	if err != nil || !strings.Contains(string(router), "value: g.example.com") {
		t.Errorf("the router does not have the domain: %v\n%s", err, router)
	}
}

package oci_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/oci"
)

// spec sets every field of a specification.
var spec = sandbox.Spec{
	Root: sandbox.Root{Path: "/state/root", Mounts: []sandbox.Mount{
		{Source: "/state/tree/usr", Target: "/usr"},
		{Target: "/tmp", Writable: true, Size: 512 << 20, Mode: 0o1777},
		{Target: "/data"},
	}},
	Mounts: []sandbox.Mount{
		{Source: "/state/p", Target: "/data/users/u/projects/p", Writable: true},
		{Source: "/state/global", Target: "/global"},
	},
	Limits: sandbox.Limits{MemoryBytes: 1 << 30, CPUs: 1.5, Processes: 100, OpenFiles: 2000},
}

func TestBundleMatchesGoldenFile(t *testing.T) {
	tests := map[string]struct {
		spec   sandbox.Spec
		kernel oci.Mode
	}{
		"full.json":    {spec, nil},
		"default.json": {sandbox.Spec{Root: sandbox.Root{Path: "/state/root"}}, nil},
		"kernel.json":  {spec, &kernel},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := oci.WriteBundle(dir, "/opt/dreamcore", test.spec, test.kernel); err != nil {
				t.Fatal(err)
			}
			raw, err := os.ReadFile(filepath.Join(dir, "config.json"))
			if err != nil {
				t.Fatal(err)
			}
			// System calls differ between hosts and have a test of their own.
			if at := bytes.Index(raw, []byte(`,"seccomp":`)); at >= 0 {
				end := bytes.Index(raw, []byte(`,"rootfsPropagation"`))
				raw = append(raw[:at:at], raw[end:]...)
			}
			var got bytes.Buffer
			if err := json.Indent(&got, raw, "", "  "); err != nil {
				t.Fatal(err)
			}
			got.WriteByte('\n')
			golden := filepath.Join("testdata", name)
			if flag.Lookup("update").Value.String() == "true" {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("differs from %s (run the test with -update if it should):\n%s", golden, diff)
			}
		})
	}
}

func TestMain(m *testing.M) {
	flag.Bool("update", false, "rewrite the golden files")
	flag.Parse()
	os.Exit(m.Run())
}

func TestBundleIsReadableOnlyByOwner(t *testing.T) {
	dir := t.TempDir()
	if err := oci.WriteBundle(dir, "/opt/dreamcore", spec, nil); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(filepath.Join(dir, "config.json"))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi, err)
	}
}

func TestWriteBundleRefusesInvalidInput(t *testing.T) {
	dir := t.TempDir()
	if err := oci.WriteBundle(dir, "/opt/dreamcore", sandbox.Spec{Root: sandbox.Root{Path: "root"}}, nil); err == nil || !strings.Contains(err.Error(), "absolute") {
		t.Errorf("WriteBundle: %v", err)
	}
	if err := oci.WriteBundle(filepath.Join(dir, "none"), "/opt/dreamcore", spec, nil); err == nil {
		t.Error("WriteBundle succeeded in a missing directory")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

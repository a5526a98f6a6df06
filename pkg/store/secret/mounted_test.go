package secret

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// mount writes a directory as Kubernetes does: every name is a link through ..data.
func mount(t testing.TB, dir, version string, files map[string]string) {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	must(os.Mkdir(filepath.Join(dir, ".."+version), 0o755))
	for name, text := range files {
		must(os.WriteFile(filepath.Join(dir, ".."+version, name), []byte(text), 0o644))
		if err := os.Symlink(filepath.Join(currentMount, name), filepath.Join(dir, name)); err != nil && !os.IsExist(err) {
			t.Fatal(err)
		}
	}
	must(os.Symlink(".."+version, filepath.Join(dir, "..new")))
	must(os.Rename(filepath.Join(dir, "..new"), filepath.Join(dir, currentMount)))
}

func mounted(t testing.TB, s *Store, dir string) *Store {
	t.Helper()
	with, err := s.WithMounted(dir)
	if err != nil {
		t.Fatal(err)
	}
	return with
}

func TestMountedSecretsComeFirstAndFollowTheirFiles(t *testing.T) {
	sealed, _ := newStore(t)
	mustCreate(t, sealed, InternalSecret, map[string]string{InternalKey: "sealed"})
	mustCreate(t, sealed, "weather", map[string]string{"KEY": "sealed"})
	dir := t.TempDir()
	mount(t, dir, "1", map[string]string{InternalSecret + "." + InternalKey: "first\n", InternalSecret + "." + InternalPreviousKey: "zeroth", "maps.KEY": "m\r\n"})
	s := mounted(t, sealed, dir)

	if got, err := s.InternalValues(); err != nil || !slices.Equal(got, []string{"first", "zeroth"}) {
		t.Errorf("%q, %v", got, err)
	}
	for name, want := range map[string]string{"weather": "sealed", "maps": "m"} {
		if got, err := s.Value(name, "KEY"); err != nil || got != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	infos, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, i := range infos {
		if i.Err != nil || i.Mounted != i.Created.IsZero() {
			t.Errorf("%+v", i)
		}
		listed = append(listed, i.Name)
	}
	if want := []string{"maps", InternalSecret, "weather"}; !slices.Equal(listed, want) {
		t.Errorf("listed %q, want %q", listed, want)
	}

	mount(t, dir, "2", map[string]string{InternalSecret + "." + InternalKey: "second"})
	if got, err := s.InternalValues(); err != nil || !slices.Equal(got, []string{"second"}) {
		t.Errorf("after the change: %q, %v", got, err)
	}
	if got, err := s.PreviewValue(); err != nil || got == "" {
		t.Errorf("a secret that is not mounted is not made: %q, %v", got, err)
	}
}

func TestMountedSecretsCannotBeChanged(t *testing.T) {
	sealed, _ := newStore(t)
	mustCreate(t, sealed, InternalSecret, map[string]string{InternalKey: "sealed"})
	dir := t.TempDir()
	mount(t, dir, "1", map[string]string{InternalSecret + "." + InternalKey: "mounted"})
	s := mounted(t, sealed, dir)

	_, rotated := s.RotateInternal()
	_, ended := s.EndRotation()
	for what, err := range map[string]error{
		"create": s.Create(InternalSecret, map[string]string{InternalKey: "x"}, true), "delete": s.Delete(InternalSecret), "rotate": rotated, "end the rotation": ended,
	} {
		if dreamcore.CodeOf(err) != dreamcore.CodeConflict || !strings.Contains(dreamcore.HintOf(err), "secrets_dir") {
			t.Errorf("%s: %v (%s)", what, err, dreamcore.HintOf(err))
		}
	}
	if got, err := sealed.Get(InternalSecret); err != nil || !maps.Equal(got, map[string]string{InternalKey: "sealed"}) {
		t.Errorf("the sealed one: %q, %v", got, err)
	}
}

// A mounted secret that cannot be used must never fall back to a sealed one.
func TestUnusableMountedSecretsAreRefused(t *testing.T) {
	sealed, _ := newStore(t)
	mustCreate(t, sealed, "weather", map[string]string{"KEY": "sealed"})
	if _, err := sealed.WithMounted(filepath.Join(t.TempDir(), "missing")); dreamcore.CodeOf(err) != dreamcore.CodeSetup {
		t.Errorf("a missing directory: %v", err)
	}
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("outside"), 0o600); err != nil {
		t.Fatal(err)
	}
	for what, prepare := range map[string]func(path string) error{
		"empty":     func(path string) error { return os.WriteFile(path, []byte("\n"), 0o600) },
		"long":      func(path string) error { return os.WriteFile(path, make([]byte, MaxValueBytes+3), 0o600) },
		"binary":    func(path string) error { return os.WriteFile(path, []byte{0xff}, 0o600) },
		"a FIFO":    func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"outside":   func(path string) error { return os.Symlink(outside, path) },
		"dangling":  func(path string) error { return os.Symlink("nothing", path) },
		"misnamed":  func(path string) error { return os.WriteFile(filepath.Join(filepath.Dir(path), "README"), nil, 0o600) },
		"too many": func(path string) error {
			for i := range maxMounted + 1 {
				if err := os.WriteFile(filepath.Join(filepath.Dir(path), "weather.K"+strings.Repeat("A", i%100)+strings.Repeat("B", i/100)), nil, 0o600); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		dir := t.TempDir()
		if err := prepare(filepath.Join(dir, "weather.KEY")); err != nil {
			t.Fatal(err)
		}
		got, err := mounted(t, sealed, dir).Get("weather")
		if dreamcore.CodeOf(err) != dreamcore.CodeSetup || !strings.Contains(dreamcore.HintOf(err), dir) {
			t.Errorf("%s: %q, %v (%s)", what, got, err, dreamcore.HintOf(err))
		}
	}
}

// The files may be replaced while they are read; the removed ones look as if there were
// no secret.
func TestMountedSecretsThatAreReplacedWhileTheyAreRead(t *testing.T) {
	sealed, _ := newStore(t)
	mustCreate(t, sealed, "weather", map[string]string{"KEY": "sealed"})
	dir := t.TempDir()
	mount(t, dir, "0", map[string]string{"weather.KEY": "mounted"})
	s := mounted(t, sealed, dir)
	reads := 0
	err := s.readMount(func(root *os.Root) error {
		if reads++; reads == 1 {
			mount(t, dir, "1", map[string]string{"weather.KEY": "replaced"})
			if err := os.RemoveAll(filepath.Join(dir, "..0")); err != nil {
				t.Fatal(err)
			}
		}
		values, err := s.mountedValues(root, "weather")
		if reads == 2 && (err != nil || values["KEY"] != "replaced") {
			t.Errorf("%q, %v", values, err)
		}
		return err
	})
	if err != nil || reads != 2 {
		t.Errorf("read %d times: %v", reads, err)
	}
}

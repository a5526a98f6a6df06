package history

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// picture returns a PNG.
func picture(t testing.TB, width, height int, c color.Color) []byte {
	t.Helper()
	img := image.NewRGBA(image.Rect(0, 0, width, height))
	for y := range height {
		for x := range width {
			img.Set(x, y, c)
		}
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// noise returns a PNG that compresses badly.
func noise(t testing.TB, side int) []byte {
	t.Helper()
	img := image.NewRGBA(image.Rect(0, 0, side, side))
	for i := range img.Pix {
		img.Pix[i] = byte(rand.Uint32())
	}
	for i := 3; i < len(img.Pix); i += 4 {
		img.Pix[i] = 255
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func (f *fixture) version(t testing.TB, content string) string {
	t.Helper()
	f.write(t, map[string]string{"index.html": content})
	hash, _ := f.commit(t, content)
	return hash
}

func (f *fixture) saveShot(t testing.TB, hash, screen string, p []byte) {
	t.Helper()
	if err := f.store.SaveShot(t.Context(), user, project, hash, screen, p); err != nil {
		t.Fatal(err)
	}
}

func TestAPictureBelongsToItsVersion(t *testing.T) {
	f := newFixture(t)
	red, blue := picture(t, 780, 1688, color.RGBA{200, 0, 0, 255}), picture(t, 1280, 720, color.RGBA{0, 0, 200, 255})
	first := f.version(t, "1")
	f.saveShot(t, first, "phone", red)
	second := f.version(t, "2")
	f.saveShot(t, second, "desktop", blue)
	for _, tt := range []struct {
		hash, screen, version string
		code                  dreamcore.Code
	}{
		{first, "phone", first, ""},
		{first[:7], "phone", first, ""},
		{"", "phone", first, ""}, // the newest version that has one
		{"", "desktop", second, ""},
		{second, "desktop", second, ""},
		{second, "phone", "", dreamcore.CodeNotFound},
		{"", "watch", "", dreamcore.CodeInvalid},
		{"", "../HEAD", "", dreamcore.CodeInvalid},
		{"../HEAD", "phone", "", dreamcore.CodeInvalid},
		{"0123456789", "phone", "", dreamcore.CodeNotFound},
	} {
		got, version, err := f.store.Shot(t.Context(), user, project, tt.hash, tt.screen)
		if tt.code != "" {
			if dreamcore.CodeOf(err) != tt.code {
				t.Errorf("%q, %q: %v", tt.hash, tt.screen, err)
			}
			continue
		}
		if err != nil || version != tt.version {
			t.Errorf("%q, %q: version %q: %v", tt.hash, tt.screen, version, err)
			continue
		}
		if _, err := png.Decode(bytes.NewReader(got)); err != nil {
			t.Errorf("%q, %q: %v", tt.hash, tt.screen, err)
		}
	}
	if _, _, err := f.store.Shot(t.Context(), user, "99999999-9999-4999-8999-999999999999", "", "phone"); dreamcore.CodeOf(err) != dreamcore.CodeNotFound {
		t.Errorf("an unknown project: %v", err)
	}
}

func TestAHostilePictureIsNotKept(t *testing.T) {
	f := newFixture(t)
	hash := f.version(t, "1")
	good := picture(t, 8, 8, color.White)
	huge := bytes.Clone(good) // a header that announces 65,535 × 65,535 pixels
	copy(huge[16:24], []byte{0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff})
	for name, p := range map[string][]byte{
		"empty": nil, "text": []byte("<script>alert(1)</script>"), "half": good[:len(good)/2], "huge": huge,
		"wide": picture(t, MaxShotSide+1, 1, color.White), "large": picture(t, 2000, 2000, color.White),
		"long": append(bytes.Clone(good), make([]byte, MaxShotBytes)...),
	} {
		if err := f.store.SaveShot(t.Context(), user, project, hash, "phone", p); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What is around the pixels is not kept.
	canary := "canary-7c1f"
	f.saveShot(t, hash, "phone", append(bytes.Clone(good), canary...))
	got, _, err := f.store.Shot(t.Context(), user, project, hash, "phone")
	if err != nil || strings.Contains(string(got), canary) {
		t.Errorf("%v: the tail of the file is kept", err)
	}
}

func TestPicturesAreBoundedAndCounted(t *testing.T) {
	f := newFixture(t)
	var hashes []string
	for i := range MaxShots {
		hash := f.version(t, fmt.Sprint(i))
		hashes = append(hashes, hash)
		f.saveShot(t, hash, "phone", picture(t, 64, 64, color.RGBA{byte(i), 0, 0, 255}))
		f.saveShot(t, hash, "desktop", picture(t, 64, 64, color.RGBA{0, byte(i), 0, 255}))
	}
	if entries, err := os.ReadDir(filepath.Join(f.git, shotsDir)); err != nil || len(entries) != MaxShots {
		t.Errorf("%d pictures: %v", len(entries), err)
	}
	if _, _, err := f.store.Shot(t.Context(), user, project, hashes[len(hashes)-1], "phone"); err != nil {
		t.Errorf("the newest one: %v", err)
	}
	want := onDiskBytes(t, f.git) // before the size is noted in a file of its own
	sum, err := f.store.Summarize(t.Context(), user, project)
	if err != nil || sum.Stored != want {
		t.Errorf("%d bytes are counted, %d on disk: %v", sum.Stored, want, err)
	}
	// Versions are worth more than pictures.
	f.store.SetLimits(Limits{ProjectBytes: 1 << 20})
	for _, hash := range hashes[:4] {
		f.saveShot(t, hash, "phone", noise(t, 100)) // 30 KB
	}
	if entries, err := os.ReadDir(filepath.Join(f.git, shotsDir)); err != nil || len(entries) != 4 {
		t.Errorf("%d pictures within an eighth of the limit: %v", len(entries), err)
	}
}

func TestAPictureGoesWithItsVersionAndItsProject(t *testing.T) {
	f := newFixture(t)
	for range 10 {
		f.write(t, map[string]string{"large.bin": random(200 << 10)})
		hash, _ := f.commit(t, "x")
		f.saveShot(t, hash, "phone", noise(t, 50))
	}
	f.prune(t, Limits{ProjectBytes: 1 << 20})
	versions, err := f.store.Log(t.Context(), user, project, 0)
	if err != nil || len(versions) >= 10 {
		t.Fatalf("%d versions: %v", len(versions), err)
	}
	known := map[string]bool{}
	for _, v := range versions {
		known[v.Hash] = true
	}
	entries, err := os.ReadDir(filepath.Join(f.git, shotsDir))
	if err != nil || len(entries) == 0 {
		t.Fatalf("%d pictures: %v", len(entries), err)
	}
	for _, e := range entries {
		if hash, _, _ := strings.Cut(e.Name(), "-"); !known[hash] {
			t.Errorf("%s stays without its version", e.Name())
		}
	}
	if err := f.store.Erase(t.Context(), user, project); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(f.git); !os.IsNotExist(err) {
		t.Errorf("the pictures stay: %v", err)
	}
}

func TestTheVerdictIsApartFromTheMessage(t *testing.T) {
	f := newFixture(t)
	for i, tt := range []struct{ message, verdict, shown, want string }{
		{"A snake", "passed", "A snake", "passed"},
		{"A snake", "failed", "A snake", "failed"},
		{"A snake", "", "A snake", ""},
		{"A snake", "great\n\nx", "A snake", ""},
		{"A snake\n\nAcceptance: perfect", "", "A snake\n\nAcceptance: perfect", ""},
	} {
		f.write(t, map[string]string{"index.html": fmt.Sprint(i)})
		f.commit(t, WithAcceptance(tt.message, tt.verdict))
		versions, err := f.store.Log(t.Context(), user, project, 1)
		if err != nil || versions[0].Message != tt.shown || versions[0].Acceptance != tt.want {
			t.Errorf("%+v: %+v, %v", tt, versions, err)
		}
		sum, err := f.store.Summarize(t.Context(), user, project)
		if err != nil || sum.Message != tt.shown || sum.Acceptance != tt.want {
			t.Errorf("%+v: %+v, %v", tt, sum, err)
		}
	}
}

func FuzzCleanPicture(f *testing.F) {
	f.Add(picture(f, 8, 8, color.White))
	f.Add([]byte("\x89PNG\r\n\x1a\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		clean, err := CleanPicture(data)
		if err != nil {
			return
		}
		c, err := png.DecodeConfig(bytes.NewReader(clean))
		if err != nil || len(clean) > MaxShotBytes || c.Width*c.Height > maxShotArea {
			t.Errorf("%d bytes, %+v, %v", len(clean), c, err)
		}
	})
}

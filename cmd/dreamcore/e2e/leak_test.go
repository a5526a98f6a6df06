package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// canary is a text that must not occur in any output.
type canaryText struct {
	name    string
	needles map[string][]byte // by form
}

// canaryCore is the number of bytes that are searched for: a part leaks too.
const canaryCore = 16

// newCanary returns the encodings of a text that are searched for.
func newCanary(name, text string) canaryText {
	if len(text) < canaryCore {
		panic("too short to be told from other text: " + name)
	}
	at := (len(text) - canaryCore) / 2
	core := []byte(text[at : at+canaryCore])
	reversed := slices.Clone(core)
	slices.Reverse(reversed)
	percent := "%" + hex.EncodeToString(core[:1])
	for _, c := range core[1:] {
		percent += fmt.Sprintf("%%%02x", c)
	}
	b := canaryText{name, map[string][]byte{
		"plain": core, "reversed": reversed,
		"hexadecimal": []byte(hex.EncodeToString(core)), "HEXADECIMAL": []byte(strings.ToUpper(hex.EncodeToString(core))),
		"percent": []byte(percent), "PERCENT": []byte(strings.ToUpper(percent)),
	}}
	// The bytes before it shift base64 by 0 to 2; the characters that depend on
	// neighbours are left out.
	for shift := range 3 {
		for form, enc := range map[string]*base64.Encoding{"base64": base64.RawStdEncoding, "base64url": base64.RawURLEncoding} {
			text := enc.EncodeToString(append(make([]byte, shift), core...))
			from, to := (shift*8+5)/6, (shift+len(core))*8/6
			b.needles[fmt.Sprint(form, "+", shift)] = []byte(text[from:to])
		}
	}
	return b
}

// searched is an output that is searched: as it is, and without what breaks dumps into
// columns and lines.
type searched [2][]byte

func newSearched(text []byte) searched {
	dense := make([]byte, 0, len(text))
	for _, c := range text {
		switch c {
		case ' ', '\t', '\r', '\n', '\\':
		default:
			dense = append(dense, c)
		}
	}
	return searched{text, dense}
}

// find returns the encoding in which the canary occurs in an output, or "".
func (b canaryText) find(text searched) (form string) {
	for form, needle := range b.needles {
		for _, t := range text {
			if bytes.Contains(t, needle) {
				return form
			}
		}
	}
	return ""
}

// readTree returns everything below a directory as one text: names, targets of
// links, contents. It follows no link and opens regular files only.
func readTree(t *testing.T, dir string) []byte {
	t.Helper()
	const most = 4 << 20
	var all bytes.Buffer
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil
	}
	defer root.Close()
	_ = fs.WalkDir(root.FS(), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil // it goes away while it is looked at
		}
		fmt.Fprintln(&all, path)
		if e.Type()&fs.ModeSymlink != 0 {
			target, _ := root.Readlink(path)
			fmt.Fprintln(&all, target)
		}
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && info.Size() < most {
			text, _ := root.ReadFile(path)
			all.Write(text)
		}
		return nil
	})
	return all.Bytes()
}

// adversary is one script of testdata/adversarial.
type adversary struct{ theme, name, text string }

// adversaries reads the scripts of a theme and fills in their parameters.
func adversaries(t *testing.T, file string, told *strings.Replacer) []adversary {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	theme := strings.TrimSuffix(filepath.Base(file), ".txtar")
	var all []adversary
	for line := range strings.Lines(string(raw)) {
		if name, ok := strings.CutPrefix(line, "-- "); ok && strings.HasSuffix(name, " --\n") {
			all = append(all, adversary{theme: theme, name: strings.TrimSuffix(name, " --\n")})
		} else if len(all) > 0 {
			all[len(all)-1].text += line
		}
	}
	for i, a := range all {
		if !strings.HasPrefix(a.text, "# ") {
			t.Errorf("%s: %s does not say what it attacks", file, a.name)
		}
		all[i].text = told.Replace(a.text)
	}
	return all
}

func TestCanariesAreFoundInEveryEncoding(t *testing.T) {
	const text = "sk-ant-0123456789abcdefXYZ-tail"
	b := newCanary("x", text)
	rev := []byte(text)
	slices.Reverse(rev)
	percent := ""
	for _, c := range []byte(text) {
		percent += fmt.Sprintf("%%%02X", c)
	}
	spaced := strings.Join(strings.Split(hex.EncodeToString([]byte(text)), ""), " \n")
	for i, s := range []string{
		"a" + text + "b", "a" + string(rev), hex.EncodeToString([]byte("xy" + text)), percent, spaced,
		base64.StdEncoding.EncodeToString([]byte(text)), base64.StdEncoding.EncodeToString([]byte("a" + text + "b")),
		base64.URLEncoding.EncodeToString([]byte("ab" + text + "~~")), text[3:25],
	} {
		if b.find(newSearched([]byte(s))) == "" {
			t.Errorf("%d: not found in %q", i, s)
		}
	}
	if form := b.find(newSearched([]byte(strings.Repeat("sk-ant-0123 456789", 50)))); form != "" {
		t.Errorf("found as %s where it is not", form)
	}
}

package generate

import (
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"github.com/notef-neighbor/dreamcore/pkg/volume"
)

// subjectRunes bounds the first line of a version's message.
const subjectRunes = 72

// commitMessage is the wish as a version's message: one line of it.
func commitMessage(wish string) string {
	line := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, wish)
	line = strings.Join(strings.Fields(line), " ")
	if runes := []rune(line); len(runes) > subjectRunes {
		line = string(runes[:subjectRunes-1]) + "…"
	}
	return line
}

// skillsDir is where the operator's skills are in the global volume.
const skillsDir = ".claude"

// skills returns the names of the operator's skills, sorted.
func (j *job) skills() []string {
	dir, err := j.service.parts.Volumes.Path(volume.Global)
	if err != nil {
		return nil
	}
	root := filepath.Join(dir, skillsDir, "skills")
	entries, _ := os.ReadDir(root) // sorted; none where there is no such directory
	var names []string
	for _, e := range entries {
		if fi, err := os.Lstat(filepath.Join(root, e.Name(), "SKILL.md")); err == nil && fi.Mode().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names
}

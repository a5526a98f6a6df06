package prompt

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// Skill is a skill in the global volume.
type Skill struct {
	Name        string // the name of its directory
	Description string // from the front matter of its SKILL.md, on one line
}

// Bounds of reading the skills.
const (
	maxSkills           = 500
	maxSkillHead        = 16 << 10 // bytes of a SKILL.md that are read
	maxSkillName        = 128
	maxSkillDescription = 500
	skillsAge           = 2 * time.Second // before they are read again
)

// skills caches the skills of the global volume.
type skills struct {
	open func() (*os.Root, error)
	now  func() time.Time

	mu   sync.Mutex
	list []Skill   // guarded by mu
	read time.Time // guarded by mu
}

// all returns the skills, sorted by name. On an error it also returns the last
// known ones.
func (s *skills) all() ([]Skill, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.read.IsZero() && s.now().Sub(s.read) < skillsAge {
		return s.list, nil
	}
	list, err := readSkills(s.open)
	if err != nil {
		return s.list, err
	}
	s.list, s.read = list, s.now()
	return list, nil
}

func readSkills(open func() (*os.Root, error)) ([]Skill, error) {
	root, err := open()
	if dreamcore.CodeOf(err) == dreamcore.CodeNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer root.Close()
	names, _, err := readNames(root, ".claude/skills", maxSkills)
	if err != nil {
		return nil, err
	}
	var list []Skill
	for _, name := range names {
		if !isSkillName(name) {
			continue
		}
		f, _, err := tree.OpenFile(root, ".claude/skills/"+name+"/SKILL.md")
		if err != nil {
			continue // not a skill
		}
		head, err := io.ReadAll(io.LimitReader(f, maxSkillHead))
		f.Close()
		if err == nil {
			list = append(list, Skill{name, skillDescription(head)})
		}
	}
	return list, nil
}

// readNames returns at most limit names in a directory below root, sorted, and
// whether there are more. A missing directory has none.
func readNames(root *os.Root, dir string, limit int) (names []string, more bool, err error) {
	at, err := tree.OpenDirs(root, dir)
	if os.IsNotExist(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	defer at.Close()
	d, err := at.Open(".")
	if err != nil {
		return nil, false, err
	}
	defer d.Close()
	names, err = d.Readdirnames(limit + 1)
	if err != nil && err != io.EOF {
		return nil, false, err
	}
	more = len(names) > limit
	names = names[:min(len(names), limit)]
	slices.Sort(names)
	return names, more, nil
}

// isSkillName reports whether name is valid by the rule of get_skill_content.
func isSkillName(name string) bool {
	return name != "" && len(name) <= maxSkillName && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
	})
}

// skillDescription returns the description in the front matter of a SKILL.md,
// or "".
func skillDescription(head []byte) string {
	rest, ok := bytes.CutPrefix(bytes.TrimPrefix(head, []byte("\xef\xbb\xbf")), []byte("---"))
	if !ok {
		return ""
	}
	front, _, ok := bytes.Cut(rest, []byte("\n---"))
	if !ok {
		return ""
	}
	var matter struct {
		Description string `yaml:"description"`
	}
	if yaml.Unmarshal(front, &matter) != nil {
		return ""
	}
	line := strings.Join(strings.Fields(strings.ToValidUTF8(matter.Description, "\uFFFD")), " ")
	line, _ = firstBytes(maxSkillDescription, line)
	return line
}

// skillItems returns the skills as values for templates.
func skillItems(all []Skill) []any {
	items := make([]any, len(all))
	for i, s := range all {
		items[i] = map[string]any{"name": s.Name, "description": s.Description}
	}
	return items
}

// hasSkill reports whether there is a skill of that name.
func hasSkill(all []Skill, name string) bool {
	return slices.ContainsFunc(all, func(s Skill) bool { return s.Name == name })
}

// stat identifies a version of a file.
type stat struct {
	size     int64
	modified time.Time
}

func statOf(info fs.FileInfo) stat { return stat{info.Size(), info.ModTime()} }

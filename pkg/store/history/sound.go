package history

import (
	"bytes"
	"errors"
	"regexp"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// The checks of git fsck --strict on commits and trees.

var identForm = regexp.MustCompile(`^[^<>\n\x00]* <[^<>\n\x00]*> (0|[1-9][0-9]*) [+-][0-9][0-9][0-9][0-9]$`)

const maxDateDigits = 12

func isIdent(text string) bool {
	if !identForm.MatchString(text) {
		return false
	}
	fields := strings.Fields(text)
	return len(fields[len(fields)-2]) <= maxDateDigits
}

// parse reads a commit. Every error is a fault.
func (c *foreignCommit) parse(raw []byte) error {
	if bytes.IndexByte(raw, 0) >= 0 {
		return faultf("a commit contains a NUL")
	}
	header, _, ok := bytes.Cut(raw, []byte("\n\n"))
	if !ok && !bytes.HasSuffix(raw, []byte("\n")) {
		return faultf("the header of a commit has no end")
	}
	lines := strings.Split(strings.TrimSuffix(string(header), "\n"), "\n")
	take := func(key string) (string, bool) {
		if len(lines) == 0 {
			return "", false
		}
		v, ok := strings.CutPrefix(lines[0], key+" ")
		if ok {
			lines = lines[1:]
		}
		return v, ok
	}
	tree, ok := take("tree")
	if !ok || !isHash(tree) {
		return faultf("a commit names no tree")
	}
	c.tree = plumbing.NewHash(tree)
	for p, ok := take("parent"); ok; p, ok = take("parent") {
		if !isHash(p) {
			return faultf("a commit names a parent that is not a hash")
		}
		if len(c.parents) == maxParents {
			return faultf("a commit has more than %d parents", maxParents)
		}
		c.parents = append(c.parents, plumbing.NewHash(p))
	}
	for _, role := range []string{"author", "committer"} {
		if ident, ok := take(role); !ok || !isIdent(ident) {
			return faultf("a commit has no valid %s", role)
		}
	}
	for _, line := range lines {
		if strings.HasPrefix(line, "author ") {
			return faultf("a commit has two authors")
		}
	}
	return nil
}

// isHash reports whether text is a hash as Git writes it. It is stricter than
// plumbing.IsHash: only lower case.
func isHash(text string) bool {
	return len(text) == 40 && strings.Trim(text, "0123456789abcdef") == "" && text != plumbing.ZeroHash.String()
}

// Kinds of entries of a tree.
const (
	fileItem = iota
	linkItem
	dirItem
	submoduleItem // of another repository: a submodule
)

type foreignItem struct {
	name string
	kind int
	hash plumbing.Hash
}

// maxEntryHead is the length of the longest mode, a space and the longest name.
const maxEntryHead = len("100644 ") + dreamcore.MaxNameBytes

// parseTree reads a tree. It refuses names that must not be checked out on any
// system, and more than limit entries.
func parseTree(raw []byte, limit int) ([]foreignItem, error) {
	var items []foreignItem
	names := map[string]bool{}
	before := ""
	for len(raw) > 0 {
		head, rest, ok := bytes.Cut(raw, []byte{0})
		if !ok || len(rest) < len(plumbing.ZeroHash) {
			return nil, errors.New("it ends too early")
		}
		if len(head) > maxEntryHead {
			return nil, faultf("it has a name of more than %d bytes", dreamcore.MaxNameBytes)
		}
		if len(items) == limit {
			return nil, faultf("it has more than %d files", MaxFiles)
		}
		mode, name, ok := strings.Cut(string(head), " ")
		i := foreignItem{name: name}
		copy(i.hash[:], rest)
		raw = rest[len(i.hash):]
		switch mode {
		case "100644", "100755", "100664":
		case "120000":
			i.kind = linkItem
		case "40000":
			i.kind = dirItem
		case "160000":
			i.kind = submoduleItem
		default:
			ok = false
		}
		sortName := name
		if i.kind == dirItem {
			sortName += "/"
		}
		switch {
		case !ok || i.hash.IsZero():
			return nil, errors.New("it has an invalid entry")
		case name == "" || name == "." || name == ".." || strings.Contains(name, "/") || reserved(name, mode == "120000"):
			return nil, faultf("it has the reserved name %q", name)
		case names[name] || sortName <= before:
			return nil, errors.New("it is not in order")
		}
		names[name], before = true, sortName
		items = append(items, i)
	}
	return items, nil
}

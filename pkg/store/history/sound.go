package history

import (
	"bytes"
	"errors"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/pattern"
)

// The checks of git fsck --strict on commits and trees.

var identForm = pattern.New(`^[^<>\n\x00]* <[^<>\n\x00]*> (0|[1-9][0-9]*) [+-][0-9][0-9][0-9][0-9]$`)

const maxDateDigits = 12

func isIdent(text string) bool {
	if !identForm().MatchString(text) {
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

const hexDigits = "0123456789abcdef"

// isHash reports whether text is a hash as Git writes it. It is stricter than
// plumbing.IsHash: only lower case.
func isHash(text string) bool {
	return len(text) == 40 && strings.Trim(text, hexDigits) == "" && text != plumbing.ZeroHash.String()
}

// treeModes are the modes of entries as Git writes them. Some clients wrote 100664.
var treeModes = []string{"100644", "100755", "100664", "120000", "40000", "160000"}

// parseTree reads a tree. It refuses names that must not be checked out on any
// system, and more than limit entries.
func parseTree(raw []byte, limit int) (entries []object.TreeEntry, err error) {
	names := map[string]bool{}
	before := ""
	for len(raw) > 0 {
		if len(entries) == limit {
			return nil, faultf("it has more than %d files", MaxFiles)
		}
		mode, _, _ := bytes.Cut(raw[:min(len(raw), len("100644 "))], []byte{' '})
		e, rest, err := nextEntry(raw)
		if errors.Is(err, errBeyond) {
			return nil, faultf("it has a name of more than %d bytes", dreamcore.MaxNameBytes)
		}
		if err != nil {
			return nil, err
		}
		key := sortName(e)
		switch {
		case !slices.Contains(treeModes, string(mode)) || e.Hash.IsZero():
			return nil, errors.New("it has an invalid entry")
		case e.Name == "" || e.Name == "." || e.Name == ".." || strings.Contains(e.Name, "/") || reserved(e.Name, e.Mode == filemode.Symlink):
			return nil, faultf("it has the reserved name %q", e.Name)
		case names[e.Name] || key <= before:
			return nil, errors.New("it is not in order")
		}
		names[e.Name], before, raw = true, key, rest
		entries = append(entries, e)
	}
	return entries, nil
}

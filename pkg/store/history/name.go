package history

import (
	"strings"
	"unicode"
)

// isShortName reports whether Windows could use name for .git, .gitmodules,
// .gitattributes, .gitignore or .mailmap in its 8.3 scheme: the beginning of one
// of these, a tilde and a number.
func isShortName(name string) bool {
	base, number, ok := strings.Cut(name, "~")
	if !ok || number == "" || strings.Trim(number, "0123456789") != "" {
		return false
	}
	for _, full := range [...]string{"gitmod", "gitatt", "gitign", "mailma", "gi7eba", "gi7d29", "gi250a", "maba30"} {
		if strings.HasPrefix(full, base) {
			return true
		}
	}
	return false
}

// reserved reports whether a name has a meaning for Git, on any system. Such a
// name must not be in a tree: the project could make the machine that checks it
// out run or write anything, and git fsck refuses it. More names are reserved for
// links than for files.
func reserved(name string, link bool) bool {
	for part := range strings.SplitSeq(name, `\`) { // a separator on Windows
		switch folded := fold(part); {
		case folded == ".git", folded == ".gitmodules", isShortName(folded):
			return true
		case link && (folded == ".gitattributes" || folded == ".gitignore" || folded == ".mailmap"):
			return true
		}
	}
	return false
}

// Reserved reports whether a file of this path cannot be in a version because one
// of its names has a meaning for Git, on any system.
func Reserved(path string) bool {
	for name := range strings.SplitSeq(path, "/") {
		if reserved(name, false) {
			return true
		}
	}
	return false
}

// isAttributes reports whether Git would read a file of this name as attributes.
func isAttributes(name string) bool { return fold(name) == ".gitattributes" }

// fold returns the name as the file systems of macOS and Windows see it: without
// letter case, without ignored code points, without a colon and the text after
// it, without dots and spaces at the end.
func fold(name string) string {
	name = strings.Map(func(r rune) rune {
		switch {
		case r >= 0x200c && r <= 0x200f, r >= 0x202a && r <= 0x202e, r >= 0x206a && r <= 0x206f, r == 0xfeff:
			return -1
		}
		return unicode.ToLower(r)
	}, name)
	name, _, _ = strings.Cut(name, ":")
	return strings.TrimRight(name, " .")
}

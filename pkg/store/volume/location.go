package volume

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

// Location is the file or directory that a path of a volume names: in a project,
// above the projects, or in another volume, which is a plain directory.
type Location struct {
	User    dreamcore.UserID    // "" outside of projects
	Project dreamcore.ProjectID // "" outside of projects
	Root    *os.Root            // of the project or volume; nil above the projects
	Path    string              // below Root; "." is Root itself

	names []string // the contents, above the projects
	close func() error
}

// Close closes the Location, after everything that was opened in it. It may be
// called more than once.
func (l *Location) Close() error {
	if l.close == nil {
		return nil
	}
	return l.close()
}

// Locate resolves a path of a volume. In the volume of the projects it is users,
// users/U, users/U/projects, or users/U/projects/P and a path in the project;
// create makes a missing project. CodeNotFound: there is no such volume, user or
// project; CodeInvalid: the path is not valid. The caller must Close the
// Location.
func (s *Store) Locate(ctx context.Context, volume, name string, create bool) (*Location, error) {
	clean := path.Clean(strings.Trim(name, "/"))
	if name == "" || clean == "" {
		clean = "."
	}
	if clean != "." {
		if _, err := tree.CleanPath(clean); err != nil {
			return nil, err
		}
	}
	if volume == Data {
		return s.locateData(ctx, clean, create)
	}
	root, err := s.OpenVolume(volume)
	if err != nil {
		return nil, err
	}
	return &Location{Root: root, Path: clean, close: root.Close}, nil
}

func (s *Store) locateData(ctx context.Context, clean string, create bool) (*Location, error) {
	unknown := &dreamcore.Error{Code: dreamcore.CodeNotFound, Reason: ReasonNoPath, Message: "No such file or directory: " + clean, Hint: "projects are at users/UUID/projects/UUID"}
	parts := strings.SplitN(clean, "/", 5)
	if clean == "." {
		_, err := s.Path(Data)
		return &Location{names: []string{usersDir}}, err
	}
	if parts[0] != usersDir || len(parts) > 2 && parts[2] != projectsDir {
		return nil, unknown
	}
	if len(parts) == 1 {
		users, err := s.Users()
		return &Location{names: stringsOf(users)}, err
	}
	user, err := dreamcore.ParseUserID(parts[1])
	if err != nil {
		return nil, unknown
	}
	if len(parts) == 2 {
		return &Location{names: []string{projectsDir}}, nil
	}
	if len(parts) == 3 {
		projects, err := s.Projects(ctx, user)
		return &Location{names: stringsOf(projects)}, err
	}
	project, err := dreamcore.ParseProjectID(parts[3])
	if err != nil {
		return nil, unknown
	}
	open := s.Find
	if create {
		open = s.Project
	}
	p, err := open(user, project)
	if err != nil {
		return nil, err
	}
	rest := "."
	if len(parts) == 5 {
		rest = parts[4]
	}
	return &Location{User: user, Project: project, Root: p.Root(), Path: rest, close: p.Close}, nil
}

func stringsOf[T ~string](ids []T) (names []string) {
	for _, id := range ids {
		names = append(names, string(id))
	}
	return names
}

// List returns the entries of a directory, names in order, or the single entry
// of a file. It includes what cannot be read or followed. CodeNotFound: the path
// does not exist.
func (l *Location) List() ([]tree.Entry, error) {
	if l.Root == nil {
		var entries []tree.Entry
		for _, name := range l.names {
			entries = append(entries, tree.Entry{Path: name, Mode: fs.ModeDir | privateMode})
		}
		return entries, nil
	}
	dir, err := tree.OpenDirs(l.Root, path.Dir(l.Path))
	if err != nil {
		return nil, tree.FileError(err)
	}
	defer dir.Close()
	base := path.Base(l.Path)
	info, err := dir.Lstat(base)
	if err != nil {
		return nil, tree.FileError(err)
	}
	if !info.IsDir() {
		return []tree.Entry{entryOf(base, info)}, nil
	}
	sub, err := tree.OpenDirs(l.Root, l.Path)
	if err != nil {
		return nil, tree.FileError(err)
	}
	defer sub.Close()
	limit := tree.MaxEntries
	names, err := tree.ReadNames(sub, &limit)
	if err != nil && !errors.Is(err, fs.ErrPermission) { // a sandbox can revoke our permission
		return nil, tree.ListError(err)
	}
	var entries []tree.Entry
	for _, name := range names {
		if l.Project != "" && tree.AddedByJob(sub, name, path.Join(l.Path, name)) {
			continue
		}
		if info, err := sub.Lstat(name); err == nil {
			entries = append(entries, entryOf(name, info))
		}
	}
	return entries, nil
}

func entryOf(name string, info fs.FileInfo) tree.Entry {
	return tree.Entry{Path: name, Mode: info.Mode(), Size: info.Size(), Modified: info.ModTime()}
}

// IsDir reports whether the location is a directory; a link is not.
func (l *Location) IsDir() bool {
	if l.Root == nil {
		return true
	}
	dir, err := tree.OpenDirs(l.Root, l.Path)
	if err != nil {
		return false
	}
	dir.Close()
	return true
}

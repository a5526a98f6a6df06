package volume

import (
	"context"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Place is where a path of a volume leads: into a project, or into another
// volume that is nothing but a directory.
type Place struct {
	User    dreamcore.UserID    // "" outside of projects
	Project dreamcore.ProjectID // "" outside of projects
	Root    *os.Root            // of the project or volume; nil: above the projects
	Path    string              // below Root; "." is Root itself

	names []string // above the projects: what is there
	close func() error
}

// Close closes the place, after what was opened in it. It may be called more
// than once.
func (p *Place) Close() error {
	if p.close == nil {
		return nil
	}
	return p.close()
}

// Locate finds a path of a volume. In the volume of the projects it is users,
// users/U, users/U/projects, or users/U/projects/P and what lies there; create
// makes a project that is missing. CodeNotFound: there is no such volume,
// user or project; CodeInvalid: the path is none. The caller must Close the
// Place.
func (s *Store) Locate(ctx context.Context, volume, name string, create bool) (*Place, error) {
	clean := path.Clean(strings.Trim(name, "/"))
	if name == "" || clean == "" {
		clean = "."
	}
	if clean != "." {
		if _, err := cleanPath(clean); err != nil {
			return nil, err
		}
	}
	if volume == Data {
		return s.locateData(ctx, clean, create)
	}
	root, err := s.volume(volume)
	if err != nil {
		return nil, err
	}
	return &Place{Root: root, Path: clean, close: root.Close}, nil
}

func (s *Store) locateData(ctx context.Context, clean string, create bool) (*Place, error) {
	unknown := &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "No such file or directory: " + clean, Hint: "projects are at users/UUID/projects/UUID: list them with dreamcore volume ls " + Data + " users"}
	parts := strings.SplitN(clean, "/", 5)
	if clean == "." {
		_, err := s.Path(Data)
		return &Place{names: []string{usersDir}}, err
	}
	if parts[0] != usersDir || len(parts) > 2 && parts[2] != projectsDir {
		return nil, unknown
	}
	if len(parts) == 1 {
		users, err := s.Users()
		return &Place{names: stringsOf(users)}, err
	}
	user, err := dreamcore.ParseUserID(parts[1])
	if err != nil {
		return nil, unknown
	}
	if len(parts) == 2 {
		return &Place{names: []string{projectsDir}}, nil
	}
	if len(parts) == 3 {
		projects, err := s.Projects(ctx, user)
		return &Place{names: stringsOf(projects)}, err
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
	return &Place{User: user, Project: project, Root: p.Root(), Path: rest, close: p.Close}, nil
}

func stringsOf[T ~string](ids []T) (names []string) {
	for _, id := range ids {
		names = append(names, string(id))
	}
	return names
}

// List returns what is in a directory, names in order; of a file, itself. What
// can be neither read nor followed is listed too. CodeNotFound: there is
// nothing of that name.
func (p *Place) List() ([]Entry, error) {
	if p.Root == nil {
		var entries []Entry
		for _, name := range p.names {
			entries = append(entries, Entry{Path: name, Mode: fs.ModeDir | privateMode})
		}
		return entries, nil
	}
	dir, err := openDirs(p.Root, path.Dir(p.Path))
	if err != nil {
		return nil, fileError(err)
	}
	defer dir.Close()
	base := path.Base(p.Path)
	info, err := dir.Lstat(base)
	if err != nil {
		return nil, fileError(err)
	}
	if !info.IsDir() {
		return []Entry{{Path: base, Mode: info.Mode(), Size: info.Size(), Modified: info.ModTime()}}, nil
	}
	sub, err := openDirs(p.Root, p.Path)
	if err != nil {
		return nil, fileError(err)
	}
	defer sub.Close()
	names, err := (&treeWalk{left: MaxEntries, skip: func(string, string) {}}).names(sub, "")
	var entries []Entry
	for _, name := range names {
		if p.Project != "" && isJobs(sub, name, path.Join(p.Path, name)) {
			continue
		}
		if info, err := sub.Lstat(name); err == nil {
			entries = append(entries, Entry{Path: name, Mode: info.Mode(), Size: info.Size(), Modified: info.ModTime()})
		}
	}
	return entries, err
}

// IsDir tells whether the place is a directory. Links are none.
func (p *Place) IsDir() bool {
	if p.Root == nil {
		return true
	}
	dir, err := openDirs(p.Root, p.Path)
	if err != nil {
		return false
	}
	dir.Close()
	return true
}

package corpus

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Copy puts the files of the game and of its packages into dir, which must exist
// and be empty. Files that the game lacks on purpose are lacking in dir too.
func (c Case) Copy(dir string) error {
	from := filepath.Join(c.games, string(c.Kind), c.Name)
	page, err := os.ReadFile(from + ".html")
	switch {
	case err == nil:
		err = os.WriteFile(filepath.Join(dir, "index.html"), page, 0o644)
	case os.IsNotExist(err):
		err = os.CopyFS(dir, os.DirFS(from))
	}
	if err != nil {
		return fmt.Errorf("copy the game %s: %w", c.Name, err)
	}
	for _, p := range c.Packages {
		if err := p.copy(filepath.Join(c.games, ".packages"), dir); err != nil {
			return fmt.Errorf("copy %s of the game %s: %w; run scripts/games.sh", p.Package, c.Name, err)
		}
	}
	return nil
}

func (p Package) copy(packages, dir string) error {
	// The first "@" may be that of a scope.
	name := p.Package[:strings.LastIndex(p.Package, "@")]
	data, err := os.ReadFile(filepath.Join(packages, "node_modules", name, p.File))
	if err != nil {
		return err
	}
	to := filepath.Join(dir, p.To)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o644)
}

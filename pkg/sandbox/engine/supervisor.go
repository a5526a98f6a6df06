package engine

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
)

// SupervisorName is the name of the supervisor's file, both embedded and in an
// instance's directory. A program that was built without it has neither file.
const SupervisorName = "dreamcore-init"

// supervisor writes the embedded supervisor to the directory of an instance. A
// program that was built without one serves as its own supervisor. Every user
// may execute the file: root inside a sandbox may be any user outside.
func (p *Provider) supervisor(dir string) error {
	raw, err := embedded.ReadFile(path.Join("embedded", runtime.GOARCH, SupervisorName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, SupervisorName), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	return errors.Join(err, f.Chmod(0o755), f.Close())
}

// init returns the program on the host that becomes PID 1.
func (p *Provider) init() string {
	name := filepath.Join(p.dir, SupervisorName)
	if _, err := os.Lstat(name); err == nil {
		return name
	}
	return p.exe
}

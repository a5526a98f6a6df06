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

// CheckName is the name of the file of the program that checks games, both
// embedded and in an instance's directory. A program that was built without it
// has neither file.
const CheckName = "dreamcore-check"

// unpack writes the embedded programs to the directory of an instance. A program
// that was built without a supervisor serves as its own. Every user may execute
// the files: root inside a sandbox may be any user outside.
func (p *Provider) unpack(dir string) error {
	for _, name := range []string{SupervisorName, CheckName} {
		raw, err := embedded.ReadFile(path.Join("embedded", runtime.GOARCH, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = writeProgram(filepath.Join(dir, name), raw)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func writeProgram(name string, raw []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700)
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	return errors.Join(err, f.Chmod(0o755), f.Close())
}

// CheckFile returns the program on the host that checks games inside a sandbox,
// or "" if this program was built without it.
func (p *Provider) CheckFile() string {
	name := filepath.Join(p.dir, CheckName)
	if _, err := os.Lstat(name); err != nil {
		return ""
	}
	return name
}

// init returns the program on the host that becomes PID 1.
func (p *Provider) init() string {
	name := filepath.Join(p.dir, SupervisorName)
	if _, err := os.Lstat(name); err == nil {
		return name
	}
	return p.cfg.Exe
}

package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Version is the release of the CLI that setup installs. Another release must
// pass the same checks before it is trusted.
const Version = "2.1.330"

// Binary is an installed CLI, as setup records it.
type Binary struct {
	Path     string    `json:"path"`    // absolute, links resolved
	Version  string    `json:"version"` // what it says of itself, inside a sandbox
	Size     int64     `json:"size"`    // bytes
	Modified time.Time `json:"modified"`
	Proven   time.Time `json:"proven"` // when it last made a tool call in a sandbox here
}

const recordName = "agent.json"

// Recorded returns the CLI that setup has proven, from its record in dir. A
// file that has changed since is an error: it is not what was proven.
func Recorded(dir string) (Binary, error) {
	var b Binary
	raw, err := os.ReadFile(filepath.Join(dir, recordName))
	if err != nil {
		return b, unready("the agent is not installed", err)
	}
	if err := json.Unmarshal(raw, &b); err != nil {
		return b, unready("the record of the agent is damaged", err)
	}
	fi, err := os.Stat(b.Path)
	if err != nil {
		return b, unready("the agent's program is gone", err)
	}
	if fi.Size() != b.Size || !fi.ModTime().Equal(b.Modified) {
		return b, unready("the agent's program has changed since it was checked", nil)
	}
	if b.Proven.IsZero() {
		return b, unready("the agent has not passed its check", nil)
	}
	return b, nil
}

func unready(message string, err error) error {
	return &dreamcore.Error{Code: dreamcore.CodeSetup, Message: message, Hint: "run: dreamcore setup", Err: err}
}

// Record notes a CLI that has passed its check.
func Record(dir string, b Binary) error {
	raw, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("record the agent: %w", err)
	}
	tmp := filepath.Join(dir, recordName+".new")
	if err := os.WriteFile(tmp, append(raw, '\n'), 0o600); err != nil {
		return fmt.Errorf("record the agent: %w", err)
	}
	return os.Rename(tmp, filepath.Join(dir, recordName))
}

// Locate looks at the program at path, or at "claude" in the search path when
// path is "". fs.ErrNotExist is in the chain when there is none to find.
func Locate(path string) (Binary, error) {
	named := path != ""
	if !named {
		found, err := exec.LookPath("claude")
		if err != nil {
			return Binary{}, fmt.Errorf("no claude in the search path: %w", fs.ErrNotExist)
		}
		path = found
	}
	real, err := filepath.EvalSymlinks(path)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		return Binary{}, &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Message: "the agent's program cannot be read", Err: err,
			Hint: "name the claude program with --claude PATH, or leave the flag out to install it",
		}
	}
	b, err := inspect(real)
	if err != nil && !named {
		// A script of another kind under the same name is not ours to use.
		return Binary{}, fmt.Errorf("%s: %w: %w", real, err, fs.ErrNotExist)
	}
	return b, err
}

// inspect checks that a file is a program that can run in a sandbox by itself.
func inspect(path string) (Binary, error) {
	f, err := os.Open(path)
	if err != nil {
		return Binary{}, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return Binary{}, err
	}
	magic := make([]byte, 4)
	if _, err := f.Read(magic); err != nil || !bytes.Equal(magic, []byte("\x7fELF")) {
		return Binary{}, &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Message: path + " is no native program",
			Hint: "use the native claude program (the platform package of npm), or leave --claude out to install it",
		}
	}
	return Binary{Path: path, Size: fi.Size(), Modified: fi.ModTime()}, nil
}

// Package is the npm package that holds the native program for this machine.
// The wrapper package is no good: on an old Node it silently installs an old
// release.
func Package() (string, error) {
	arch, ok := map[string]string{"amd64": "x64", "arm64": "arm64"}[runtime.GOARCH]
	if !ok {
		return "", fmt.Errorf("the agent has no release for %s", runtime.GOARCH)
	}
	name := "@anthropic-ai/claude-code-linux-" + arch
	if musl, _ := filepath.Glob("/lib/ld-musl-*"); len(musl) > 0 {
		name += "-musl"
	}
	return name, nil
}

// installLimit bounds the download.
const installLimit = 15 * time.Minute

// Install fetches the pinned release with the machine's npm into dir.
func Install(ctx context.Context, dir string) (Binary, error) {
	pkg, err := Package()
	if err != nil {
		return Binary{}, err
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		return Binary{}, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "the agent is not installed and there is no npm to fetch it with", Err: err,
			Hint: "run: apt-get install npm (then setup again), or name an installed program with --claude PATH",
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Binary{}, fmt.Errorf("install the agent: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, installLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--omit=optional",
		"--no-save", "--loglevel=error", "--prefix", dir, pkg+"@"+Version)
	cmd.WaitDelay = 5 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return Binary{}, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "npm could not install the agent", Err: errors.Join(err, errors.New(string(bytes.TrimSpace(out)))),
			Hint: "check that npm works (npm ping), or name an installed program with --claude PATH",
		}
	}
	return inspect(filepath.Join(dir, "node_modules", filepath.FromSlash(pkg), "claude"))
}

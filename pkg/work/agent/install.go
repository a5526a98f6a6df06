package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// Version is the release of the CLI that setup installs. Another release must pass
// the same checks before it may be used.
const Version = "2.1.330"

// Binary is an installed CLI, as setup records it.
type Binary struct {
	Path     string    `json:"path"`    // absolute, links resolved
	Version  string    `json:"version"` // that the program reports inside a sandbox
	Size     int64     `json:"size"`    // bytes
	Modified time.Time `json:"modified"`
	Proven   time.Time `json:"proven"` // when it last made a tool call in a sandbox here
}

const recordName = "agent.json"

// Recorded returns the CLI that setup has proven, from its record in dir. It is an
// error if the file has changed since.
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

// Reasons of errors.
const (
	ReasonNotReady dreamcore.Reason = "agent.not-ready" // setup has not installed it, or not this program
	ReasonProgram  dreamcore.Reason = "agent.program"   // the program cannot be used, or not be installed
)

func unready(message string, err error) error {
	return &dreamcore.Error{Code: dreamcore.CodeSetup, Reason: ReasonNotReady, Message: message, Hint: "set the service up, which installs the agent and checks it", Err: err}
}

// Record writes the record of a CLI that has passed its check.
func Record(dir string, b Binary) error {
	raw, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("record the agent: %w", err)
	}
	if err := statefile.ReplaceFile(filepath.Join(dir, recordName), 0o600, statefile.Bytes(append(raw, '\n'))); err != nil {
		return fmt.Errorf("record the agent: %w", err)
	}
	return nil
}

// Locate inspects the program at path or, if path is "", the program "claude" in
// the search path. It fails with CodeInvalid if path is not a usable program, and
// with fs.ErrNotExist in the chain if the search path has none.
func Locate(path string) (Binary, error) {
	if path != "" {
		return inspect(path)
	}
	found, err := exec.LookPath("claude")
	if err != nil {
		return Binary{}, fmt.Errorf("no claude in the search path: %w", fs.ErrNotExist)
	}
	b, err := inspect(found)
	if err != nil {
		// Another program of the same name, for example a script.
		return Binary{}, fmt.Errorf("%s: %w: %w", found, err, fs.ErrNotExist)
	}
	return b, nil
}

// inspect checks that a file is a program that runs in a sandbox without other
// files.
func inspect(path string) (Binary, error) {
	real, err := filepath.EvalSymlinks(path)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		return Binary{}, unusable("the agent's program cannot be read", "check that the file exists", err)
	}
	// This must precede the open, which would block on a FIFO.
	fi, err := os.Stat(real)
	if err == nil && !fi.Mode().IsRegular() {
		err = errors.New("it is not a regular file")
	}
	magic := make([]byte, len(elfMagic))
	if err == nil {
		err = readStart(real, magic)
	}
	if err != nil || string(magic) != elfMagic {
		return Binary{}, unusable(real+" is not a native program", "use the native claude program (the platform package of npm)", err)
	}
	if fi.Mode()&0o001 == 0 {
		return Binary{}, unusable(real+" is not executable by all users, so not by the user inside sandboxes", "run: chmod a+rx "+real, nil)
	}
	return Binary{Path: real, Size: fi.Size(), Modified: fi.ModTime()}, nil
}

const elfMagic = "\x7fELF"

// readStart fills b from the beginning of a file.
func readStart(name string, b []byte) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.ReadFull(f, b)
	return err
}

func unusable(message, hint string, err error) error {
	return &dreamcore.Error{Code: dreamcore.CodeInvalid, Reason: ReasonProgram, Message: message, Hint: hint, Err: err}
}

// Package returns the name of the npm package with the native program for this
// machine. The wrapper package must not be used: on an old Node it silently
// installs an old release.
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

// sizeInterval is the time between two looks at the size of a directory.
const sizeInterval = 250 * time.Millisecond

// watchSize calls progress, which may be nil, with the bytes of the files in dir, until
// stop is called.
func watchSize(dir string, progress func(bytes int64)) (stop func()) {
	if progress == nil {
		return func() {}
	}
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(sizeInterval)
		defer tick.Stop()
		for {
			select {
			case <-ended:
				return
			case <-tick.C:
				progress(sizeOf(dir))
			}
		}
	}()
	return func() {
		close(ended)
		<-done
	}
}

// sizeOf returns the bytes of the files in dir. Files that are renamed meanwhile may be
// missing.
func sizeOf(dir string) (bytes int64) {
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return nil
		}
		if info, err := e.Info(); err == nil {
			bytes += info.Size()
		}
		return nil
	})
	return bytes
}

// Install installs the pinned release into dir, with the npm of the machine. It calls
// progress, which may be nil, with the bytes that npm has unpacked so far, again and
// again: npm says nothing itself, and unpacks what it receives at once.
func Install(ctx context.Context, dir string, progress func(bytes int64)) (Binary, error) {
	pkg, err := Package()
	if err != nil {
		return Binary{}, err
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		return Binary{}, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Reason: ReasonProgram, Message: "the agent is not installed, and there is no npm to install it with", Err: err,
			Hint: "run: apt-get install npm (then setup again)",
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
	stop := watchSize(dir, progress)
	out, err := cmd.CombinedOutput()
	stop()
	if err != nil {
		return Binary{}, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Reason: ReasonProgram, Message: "npm could not install the agent", Err: errors.Join(err, errors.New(string(bytes.TrimSpace(out)))),
			Hint: "check that npm works (npm ping)",
		}
	}
	b, err := inspect(filepath.Join(dir, "node_modules", filepath.FromSlash(pkg), "claude"))
	if err != nil {
		return Binary{}, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Reason: ReasonProgram, Message: "npm has not installed a program of the agent that works here", Err: err,
			Hint: "remove " + dir + " and run setup again",
		}
	}
	return b, nil
}

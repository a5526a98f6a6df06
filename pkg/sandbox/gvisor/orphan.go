package gvisor

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// orphanNames are the names, as the kernel cuts them, of processes that the
// engine starts by re-executing the program. Our own children never have them:
// they are started, and waited for, under the program's own name.
var orphanNames = []string{"exe", sentryName, "runsc-sandbox", "runsc-gofer", PrewarmerName[:15]}

// reapOrphans collects processes of the engine that have died and become our
// children without anybody having learned their ids: those of a start that was
// cut off before the engine wrote them down. One that belongs to a sandbox
// which is just being closed may be collected here or there.
func reapOrphans() error {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return err
	}
	self := strconv.Itoa(os.Getpid())
	for _, name := range stats {
		raw, err := os.ReadFile(name)
		if err != nil {
			continue // gone meanwhile
		}
		comm, state, parent, ok := parseStat(raw)
		if !ok || state != "Z" || parent != self || !slices.Contains(orphanNames, comm) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err != nil {
			continue
		}
		if _, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); err != nil && !errors.Is(err, unix.ECHILD) && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return nil
}

// parseStat reads the name, the state and the parent of a line of proc(5)'s
// stat. The name may hold blanks and parentheses.
func parseStat(raw []byte) (comm, state, parent string, ok bool) {
	open, end := bytes.IndexByte(raw, '('), bytes.LastIndexByte(raw, ')')
	if open < 0 || end < open {
		return "", "", "", false
	}
	rest := strings.Fields(string(raw[end+1:]))
	if len(rest) < 2 {
		return "", "", "", false
	}
	return string(raw[open+1 : end]), rest[0], rest[1], true
}

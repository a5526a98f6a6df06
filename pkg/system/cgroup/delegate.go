package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// serviceGroup is the child into which the processes of a delegated group are
// moved, because in cgroup v2 a group with processes cannot set limits for
// children.
const serviceGroup = "service"

// delegateAttributes are the extended attributes by which systemd marks a group
// that it has delegated to a unit with Delegate=yes.
var delegateAttributes = []string{"trusted.delegate", "user.delegate"}

// setBase sets the parent of the service's groups in cgroup v2. own is the
// content of /proc/self/cgroup.
//
// The parent is the group of this process if it is delegated, so that its limits
// and accounting apply to sandboxes too, and stopping the unit stops them.
// Otherwise it is the root, which in a container is the container's group.
func (h *Hierarchy) setBase(own []byte) {
	at, ok := unifiedGroup(own)
	if !ok {
		return
	}
	if path.Base(at) == serviceGroup { // moved there by an earlier instance
		at = path.Dir(at)
	}
	if at == "/" {
		// The host's own root group has no type, and may have processes.
		_, err := os.Lstat(filepath.Join(h.unified, "cgroup.type"))
		h.delegated = err == nil
		return
	}
	dir := filepath.Join(h.unified, at)
	available, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil || h.check(available) != nil {
		return
	}
	if slices.ContainsFunc(delegateAttributes, func(name string) bool {
		var value [8]byte
		n, err := unix.Getxattr(dir, name, value[:])
		return err == nil && string(value[:n]) == "1"
	}) {
		h.base, h.delegated = strings.TrimPrefix(at, "/"), true
	}
}

// unifiedGroup parses cgroups(7) and returns the group in version 2. ok is false
// if the group is outside of this process's view.
func unifiedGroup(own []byte) (group string, ok bool) {
	for line := range strings.Lines(string(own)) {
		if at, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return at, path.IsAbs(at) && path.Clean(at) == at && !strings.HasPrefix(at, "/..")
		}
	}
	return "", false
}

// Base returns the parent of the groups of Open, relative to the root; "" is the
// root.
func (h *Hierarchy) Base() string { return h.base }

// In returns the hierarchy as seen by a process whose Base is base. ok is false
// if no process can have that base.
func (h *Hierarchy) In(base string) (in *Hierarchy, ok bool) {
	if base != "" && (h.unified == "" || !filepath.IsLocal(base) || path.Clean(base) != base) {
		return nil, false
	}
	other := *h
	other.base, other.delegated = base, false
	return &other, true
}

// moves bounds how often processes that join meanwhile are moved too.
const moves = 20

// enableBelow enables controllers for the groups below dir. If the group is
// delegated, its processes are first moved to serviceGroup.
func enableBelow(dir string, controllers []string, delegated bool) error {
	enable := func() error {
		return os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+strings.Join(controllers, " +")), 0)
	}
	err := enable()
	for again := 0; delegated && errors.Is(err, syscall.EBUSY) && again < moves; again++ {
		if merr := moveAll(dir, filepath.Join(dir, serviceGroup)); merr != nil {
			return errors.Join(err, merr)
		}
		err = enable()
	}
	return err
}

// moveAll moves the processes of one group into another, which it creates.
func moveAll(from, to string) error {
	if err := os.Mkdir(to, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	pids, err := (&Group{dirs: []string{from}}).Processes()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		err := os.WriteFile(filepath.Join(to, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
		if err != nil && !errors.Is(err, syscall.ESRCH) { // it has ended
			return fmt.Errorf("move process %d: %w", pid, err)
		}
	}
	return nil
}

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

// serviceGroup is where the processes of a group go that was lent to us, so
// that it can have groups with limits below it: version 2 has no processes in
// such a one.
const serviceGroup = "service"

// delegated are the attributes that systemd puts on a group that it has lent,
// for a unit with Delegate=yes.
var delegated = []string{"trusted.delegate", "user.delegate"}

// settle finds where our groups belong in cgroup v2. own is /proc/self/cgroup.
//
// That is below the group of this process where that was lent to us: so its
// limits and its accounts hold for sandboxes too, and who ends it ends them.
// And it is the top elsewhere, which in a container is the container's group.
func (h *Hierarchy) settle(own []byte) {
	at, ok := unifiedGroup(own)
	if !ok {
		return
	}
	if path.Base(at) == serviceGroup { // we have been here before
		at = path.Dir(at)
	}
	if at == "/" {
		// The machine's own top has no type, and may have processes.
		_, err := os.Lstat(filepath.Join(h.unified, "cgroup.type"))
		h.lent = err == nil
		return
	}
	dir := filepath.Join(h.unified, at)
	given, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil || h.check(given) != nil {
		return
	}
	if slices.ContainsFunc(delegated, func(name string) bool {
		var value [8]byte
		n, err := unix.Getxattr(dir, name, value[:])
		return err == nil && string(value[:n]) == "1"
	}) {
		h.base, h.lent = strings.TrimPrefix(at, "/"), true
	}
}

// unifiedGroup reads cgroups(7): the group in version 2. A group outside of
// this process's view is none.
func unifiedGroup(own []byte) (string, bool) {
	for line := range strings.Lines(string(own)) {
		if at, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return at, path.IsAbs(at) && path.Clean(at) == at && !strings.HasPrefix(at, "/..")
		}
	}
	return "", false
}

// Base is the group that Open's are below, relative to the top; "" is the top.
func (h *Hierarchy) Base() string { return h.base }

// In is the hierarchy as a process has it whose Base is, or was, base; ok is
// false where no process can have had that.
func (h *Hierarchy) In(base string) (in *Hierarchy, ok bool) {
	if base != "" && (h.unified == "" || !filepath.IsLocal(base) || path.Clean(base) != base) {
		return nil, false
	}
	other := *h
	other.base, other.lent = base, false
	return &other, true
}

// moves is how often processes that come meanwhile are moved too.
const moves = 20

// giveBelow gives the groups below dir the controllers. Where the group is lent
// to us, its processes make room for them.
func giveBelow(dir string, controllers []string, lent bool) error {
	give := func() error {
		return os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+strings.Join(controllers, " +")), 0)
	}
	err := give()
	for again := 0; lent && errors.Is(err, syscall.EBUSY) && again < moves; again++ {
		if merr := moveAll(dir, filepath.Join(dir, serviceGroup)); merr != nil {
			return errors.Join(err, merr)
		}
		err = give()
	}
	return err
}

// moveAll moves the processes of one group into another, which it makes.
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

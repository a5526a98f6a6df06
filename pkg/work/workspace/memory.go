package workspace

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/system/cgroup"
)

// availableMemory returns the bytes that programs can get without swapping: the kernel's
// estimate for the machine, or what the limit of our own control group leaves, as in a
// pod.
func availableMemory() (int64, error) {
	machine, err := machineMemory()
	return min(machine, cgroup.MemoryRoom()), err
}

func machineMemory() (int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		v, ok := strings.CutPrefix(lines.Text(), "MemAvailable:")
		if !ok {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read MemAvailable of /proc/meminfo: %w", err)
		}
		return kib << 10, nil
	}
	return 0, errors.New("/proc/meminfo has no MemAvailable")
}

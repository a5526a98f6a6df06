package daemon

import (
	"log/slog"
	"runtime"
	"runtime/debug"

	"github.com/notef-neighbor/dreamcore/pkg/system/cgroup"
)

// memoryShare is the part of the available memory that the heap of the service
// may take before the garbage collector works harder. The rest is for the peak
// of a heavy operation and for memory outside the heap.
const memoryShare = 0.5

// memoryLimit returns the limit for the runtime in bytes, or 0 to leave it
// unchanged. configured is in MiB; available is what the machine offers, in
// bytes.
func memoryLimit(inEnvironment bool, configured int, available int64) int64 {
	switch {
	case inEnvironment:
		return 0
	case configured > 0:
		return int64(configured) << 20
	}
	return int64(memoryShare * float64(available))
}

// limitMemory makes the garbage collector keep this process within its memory.
func limitMemory(s *State, log *slog.Logger) {
	limit := memoryLimit(s.env.GoMemoryLimit, s.Config.MemoryLimitMiB, cgroup.MemoryLimit())
	if limit <= 0 {
		return
	}
	debug.SetMemoryLimit(limit)
	log.Debug("the memory of the service is limited", "mib", limit>>20)
}

// fewestThreads is the least number of threads that compute at once, also on a
// machine with fewer processors. Go lets a goroutine compute for 10 ms before
// another one gets the same thread: where two threads read large bodies, every
// small request waits that long at each of its steps. Between threads the
// kernel decides, and it prefers those that have slept.
const fewestThreads = 8

// shareProcessors keeps small requests fast while large ones are read.
func shareProcessors(s *State) {
	if !s.env.GoProcessors && runtime.GOMAXPROCS(0) < fewestThreads {
		runtime.GOMAXPROCS(fewestThreads)
	}
}

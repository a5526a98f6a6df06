package main

import (
	"log/slog"
	"runtime"
	"runtime/debug"

	"github.com/notef-neighbor/dreamcore/pkg/system/cgroup"
)

// memoryShare is how much of the memory that there is the heap of the service
// may take before the garbage collector works harder: a peak of a heavy
// operation, and what is not in the heap, must fit beside it.
const memoryShare = 0.5

// memoryLimit returns the limit that the runtime is given, in bytes; 0 if it is
// left as it is. configured is in MiB; available is what the machine gives.
func memoryLimit(inEnvironment bool, configured int, available int64) int64 {
	switch {
	case inEnvironment:
		return 0
	case configured > 0:
		return int64(configured) << 20
	}
	return int64(memoryShare * float64(available))
}

// limitMemory makes the garbage collector keep the memory of this process within
// its budget.
func limitMemory(s state, log *slog.Logger) {
	limit := memoryLimit(s.env.GoMemoryLimit, s.cfg.MemoryLimitMiB, cgroup.MemoryLimit())
	if limit <= 0 {
		return
	}
	debug.SetMemoryLimit(limit)
	log.Debug("the memory of the service is limited", "mib", limit>>20)
}

// fewestThreads is how many threads compute at once at least, also on a machine
// with fewer processors. Go lets a goroutine compute for 10 ms before another one
// has its turn on the same thread: where two threads read large bodies, every
// small request waits that long at each of its steps. Between threads the kernel
// decides, and it prefers those that have slept.
const fewestThreads = 8

// shareProcessors lets small requests go on beside large ones.
func shareProcessors(s state) {
	if !s.env.GoProcessors && runtime.GOMAXPROCS(0) < fewestThreads {
		runtime.GOMAXPROCS(fewestThreads)
	}
}

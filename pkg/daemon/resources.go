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

// What a job takes of the machine unless the operator says otherwise. An agent
// computes for about a second at its start and mostly waits for the model then; it
// takes 150 MiB, and what its programs take.
const (
	jobsPerCore  = 2
	memoryPerJob = 1 << 30
	// memoryPerAgent is the memory of the machine for each agent that waits for a
	// job, of which it takes a twentieth.
	memoryPerAgent = 2 << 30
	// memoryOfBrowser is what the browser takes that plays a job's game, beside
	// the agent: 190 MiB for a usual game (see performance.md), and some room
	// for a larger one.
	memoryOfBrowser = 256 << 20
)

// runningJobs returns how many jobs run at once: configured, or if that is 0, what
// suits a machine with so many cores and bytes of memory (0 if unknown). plays says
// that each job has a browser.
func runningJobs(configured, sandboxes, cores int, memory int64, plays bool) int {
	if configured > 0 {
		return configured
	}
	n := min(jobsPerCore*cores, sandboxes)
	each := int64(memoryPerJob)
	if plays {
		each += memoryOfBrowser
	}
	if memory > 0 {
		n = min(n, int(memory/each))
	}
	return max(n, 1)
}

// mostSandboxes returns how many sandboxes there are at once: configured, or what the
// machine has processes for.
func mostSandboxes(configured int) int {
	return min(configured, cgroup.SandboxRoom(cgroup.ProcessLimit()))
}

// warnOfFewSandboxes logs that there are fewer sandboxes than configured.
func warnOfFewSandboxes(configured int, log *slog.Logger) {
	if n := mostSandboxes(configured); n < configured {
		log.Warn("there are fewer sandboxes than max_sandboxes: this machine has no processes and threads for more", "sandboxes", n, "max_sandboxes", configured,
			"hint", "raise the least of kernel.pid_max, kernel.threads-max and the limit of the service's cgroup (TasksMax of its unit), or lower max_sandboxes")
	}
}

// warmAgents returns how many agents wait for jobs: configured, or if that is
// negative, what suits a machine with so many bytes of memory (0 if unknown).
func warmAgents(configured int, memory int64) int {
	if configured >= 0 {
		return configured
	}
	return int(memory / memoryPerAgent)
}

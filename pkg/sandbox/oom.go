package sandbox

import (
	"os"
	"strconv"
	"strings"
)

// outOfMemoryGap is how much sooner than the service the kernel ends a sandbox when
// the memory of the machine runs out, in units of oom_score_adj.
const outOfMemoryGap = 500

// OOMScore returns the oom_score_adj of sandboxes of a service with the score own. In a
// container the service may have a high score that it cannot lower.
func OOMScore(own int) int { return min(1000, max(own, 0)+outOfMemoryGap) }

// OwnOOMScore returns the oom_score_adj of this process, or 0 if it cannot be read.
func OwnOOMScore() int {
	raw, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return 0
	}
	return score
}

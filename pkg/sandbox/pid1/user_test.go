package pid1

import "testing"

// TestTheStrangerHasNoPrograms: the user inside may be any but root, and the end of
// the browser must not end the agent.
func TestTheStrangerHasNoPrograms(t *testing.T) {
	f := newFamily()
	defer f.close()
	for _, uid := range []uint32{2, 4} {
		_, _ = f.start("/nonexistent", order{Args: []string{"x"}, UID: uid}, nil)
	}
	for uid, want := range map[uint32]uint32{61000: 3, 2: 3, 3: 5, 4: 3} {
		f.mu.Lock()
		got := f.stranger(uid)
		f.mu.Unlock()
		if got != want {
			t.Errorf("for %d: %d, want %d", uid, got, want)
		}
	}
}

package job

// Load is how many jobs there are at the moment, and how many are possible.
type Load struct {
	Queued, Running       int
	MaxQueued, MaxRunning int
}

// Load returns the load.
func (s *Service) Load() Load {
	a := s.admission
	a.mu.Lock()
	defer a.mu.Unlock()
	return Load{Queued: a.waiting, Running: a.running, MaxQueued: a.limits.waiting, MaxRunning: a.limits.running}
}

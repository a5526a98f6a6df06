package sandbox

import "testing"

func TestSandboxesGiveWayToTheService(t *testing.T) {
	for own, want := range map[int]int{-997: 500, -500: 500, 0: 500, 2: 502, 700: 1000, 984: 1000, 1000: 1000} {
		if got := OOMScore(own); got != want {
			t.Errorf("%d beside a service with %d, want %d", got, own, want)
		}
	}
}

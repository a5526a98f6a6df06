package disk

import (
	"path/filepath"
	"testing"
)

const benchBytes = 2 << 30 // the default of disk_mib

func BenchmarkFormat(b *testing.B) {
	needDisks(b)
	image := filepath.Join(b.TempDir(), "image")
	for b.Loop() {
		if err := Format(b.Context(), image, benchBytes, 0, 0); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAcquireCold mounts and unmounts an existing image.
func BenchmarkAcquireCold(b *testing.B) {
	s := newStore(b, sized(benchBytes))
	_, release := acquire(b, s, key)
	release()
	if err := retireNow(s); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		_, release := acquire(b, s, key)
		release()
		if err := retireNow(s); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAcquireWarm uses a disk that is mounted and unused.
func BenchmarkAcquireWarm(b *testing.B) {
	s := newStore(b, sized(benchBytes))
	_, release := acquire(b, s, key)
	release()
	for b.Loop() {
		_, release := acquire(b, s, key)
		release()
	}
}

// BenchmarkAcquireShared uses a disk that is in use in this process.
func BenchmarkAcquireShared(b *testing.B) {
	s := newStore(b, sized(benchBytes))
	_, release := acquire(b, s, key)
	defer release()
	for b.Loop() {
		_, release := acquire(b, s, key)
		release()
	}
}

func retireNow(s *Store) error {
	d := s.disk(key)
	d.lock()
	defer d.unlock()
	_, err := s.retire(d)
	return err
}

// BenchmarkReserve reserves and returns the space of a file system that stays
// mounted, as for each job of a user whose sandbox is pooled.
func BenchmarkReserve(b *testing.B) {
	s := newStore(b, sized(1<<30))
	_, unuse := acquire(b, s, key)
	defer unuse()
	for b.Loop() {
		release, err := s.Reserve(b.Context(), key, 0)
		if err != nil {
			b.Fatal(err)
		}
		release()
	}
}

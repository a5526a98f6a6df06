package history

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

const (
	indexName  = "dreamcore-index"
	indexMagic = "dreamcore index 1\n"
	// racyMargin is how long after its last change a file must have been
	// read: within one tick of a file system's clock, one second at most, a
	// second change leaves the same time stamp.
	racyMargin = time.Second
	// maxIndexBytes is more than the index of the largest project has: the
	// paths, and at most 80 bytes for each of the names.
	maxIndexBytes = dreamcore.MaxTreePaths + 80*dreamcore.MaxTreeNames + 1<<10
)

// index remembers the files of the newest commit, so that those that did not
// change since need not be read again. It is a cache: without it, or when it
// is damaged or of another commit, everything is read.
type index struct {
	head  plumbing.Hash            // the commit it belongs to
	files map[string]entry         // by path
	trees map[string]plumbing.Hash // by path of the directory, "" for the project
}

// entry is one file as it was when it was read.
type entry struct {
	stat stat
	racy bool // it may have changed since without a new time stamp
	hash plumbing.Hash
}

// stat is what changes when a file changes. The sandbox can set mtime, but
// not ctime.
type stat struct {
	size  int64
	mtime int64 // nanoseconds
	ctime int64 // nanoseconds
	inode uint64
	mode  uint32
}

func statOf(info fs.FileInfo) (stat, bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return stat{}, false
	}
	return stat{size: st.Size, mtime: st.Mtim.Nano(), ctime: st.Ctim.Nano(), inode: st.Ino, mode: st.Mode}, true
}

// isRacy tells whether a file that is read at the time now may change again
// without a sign of it.
func (s stat) isRacy(now time.Time) bool {
	return s.ctime >= now.Add(-racyMargin).UnixNano()
}

func newIndex() *index {
	return &index{files: map[string]entry{}, trees: map[string]plumbing.Hash{}}
}

// readIndex returns the index of the commit head, or an empty one.
func readIndex(repo string, head plumbing.Hash) *index {
	name := filepath.Join(repo, indexName)
	if info, err := os.Stat(name); err != nil || info.Size() > maxIndexBytes {
		return newIndex() // the largest one is older than the limits on trees
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return newIndex()
	}
	x, err := decodeIndex(data)
	if err != nil || x.head != head {
		return newIndex()
	}
	return x
}

// write replaces the index on disk. It is not synced: a torn one is noticed by
// its checksum.
func (x *index) write(repo string) error {
	temp := filepath.Join(repo, tempPrefix+uuid.NewString())
	err := os.WriteFile(temp, x.encode(), fileMode)
	if err == nil {
		err = os.Rename(temp, filepath.Join(repo, indexName))
	}
	if err != nil {
		return errors.Join(err, ignoreMissing(os.Remove(temp)))
	}
	return nil
}

// encode writes: magic, head, number of files, files, number of trees, trees,
// SHA-256 of all that. Numbers are varints.
func (x *index) encode() []byte {
	size := len(indexMagic) + len(x.head) + 2*binary.MaxVarintLen64 + sha256.Size
	for path := range x.files {
		size += len(path) + maxEntryBytes
	}
	for path, hash := range x.trees {
		size += binary.MaxVarintLen64 + len(path) + len(hash)
	}
	b := make([]byte, 0, size) // growing it would take the memory twice
	b = append(append(b, indexMagic...), x.head[:]...)
	b = binary.AppendUvarint(b, uint64(len(x.files)))
	for path, e := range x.files {
		b = appendString(b, path)
		b = binary.AppendVarint(b, e.stat.size)
		b = binary.AppendVarint(b, e.stat.mtime)
		b = binary.AppendVarint(b, e.stat.ctime)
		b = binary.AppendUvarint(b, e.stat.inode)
		b = binary.AppendUvarint(b, uint64(e.stat.mode))
		racy := byte(0)
		if e.racy {
			racy = 1
		}
		b = append(append(b, racy), e.hash[:]...)
	}
	b = binary.AppendUvarint(b, uint64(len(x.trees)))
	for path, hash := range x.trees {
		b = append(appendString(b, path), hash[:]...)
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// maxEntryBytes is what an entry takes at most beside its path: the length of
// that, five numbers, a byte and the hash.
const maxEntryBytes = 6*binary.MaxVarintLen64 + 1 + len(plumbing.ZeroHash)

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

var errIndex = errors.New("the index is damaged")

func decodeIndex(data []byte) (*index, error) {
	body := len(data) - sha256.Size
	if body < len(indexMagic) || !bytes.HasPrefix(data, []byte(indexMagic)) {
		return nil, errIndex
	}
	if sum := sha256.Sum256(data[:body]); !bytes.Equal(sum[:], data[body:]) {
		return nil, errIndex
	}
	d := decoder{rest: data[len(indexMagic):body]}
	x := newIndex()
	x.head = d.hash()
	for n := d.uvarint(); n > 0 && !d.failed; n-- {
		path := d.string()
		x.files[path] = entry{
			stat: stat{size: d.varint(), mtime: d.varint(), ctime: d.varint(), inode: d.uvarint(), mode: uint32(d.uvarint())},
			racy: d.byte() != 0, hash: d.hash(),
		}
	}
	for n := d.uvarint(); n > 0 && !d.failed; n-- {
		path := d.string()
		x.trees[path] = d.hash()
	}
	if d.failed || len(d.rest) != 0 {
		return nil, errIndex
	}
	return x, nil
}

// decoder takes values from the front of rest; failed says that one was not
// there.
type decoder struct {
	rest   []byte
	failed bool
}

func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.rest)) {
		d.failed = true
		d.rest = nil
		return nil
	}
	var b []byte
	b, d.rest = d.rest[:n], d.rest[n:]
	return b
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	d.take(width(n))
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	d.take(width(n))
	return v
}

// width turns the result of binary.Uvarint into what to take: too much where
// there was no number.
func width(n int) uint64 {
	if n <= 0 {
		return 1 << 62
	}
	return uint64(n)
}

func (d *decoder) string() string { return string(d.take(d.uvarint())) }

func (d *decoder) byte() byte {
	if b := d.take(1); len(b) == 1 {
		return b[0]
	}
	return 0
}

func (d *decoder) hash() (h plumbing.Hash) {
	copy(h[:], d.take(uint64(len(h))))
	return h
}

package history

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

const (
	indexName  = "dreamcore-index"
	indexMagic = "dreamcore index 1\n"
	// racyMargin is the time that must pass between the last change of a file
	// and its reading: within one tick of a file system's clock, at most a
	// second, another change leaves the same time stamp.
	racyMargin = time.Second
	// maxIndexBytes is more than the index of the largest project takes: the
	// paths, and at most 80 bytes for each name.
	maxIndexBytes = dreamcore.MaxTreePaths + 80*dreamcore.MaxTreeNames + 1<<10
)

// index holds the files of the newest commit, so that files that did not change
// since need not be read again. It is a cache: if it is missing, damaged or of
// another commit, everything is read.
type index struct {
	head  plumbing.Hash            // the commit that it belongs to
	files map[string]entry         // by path
	trees map[string]plumbing.Hash // by path of the directory, "" for the project
}

// entry is the state of a file when it was read.
type entry struct {
	stat stat
	racy bool // may have changed since without a new time stamp
	hash plumbing.Hash
}

// stat holds the attributes that change when a file changes. The sandbox can set
// mtime, but not ctime.
type stat struct {
	size  int64
	mtime int64 // nanoseconds
	ctime int64 // nanoseconds
	inode uint64
	mode  uint32
}

func statOf(info fs.FileInfo) stat {
	st := info.Sys().(*syscall.Stat_t)
	return stat{size: st.Size, mtime: st.Mtim.Nano(), ctime: st.Ctim.Nano(), inode: st.Ino, mode: st.Mode}
}

// isRacy reports whether a file that is read at the time now may change again
// without a change of its attributes.
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
		return newIndex() // written before there were limits on trees
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

// write replaces the index on disk. It is not synced: the checksum reveals a torn
// index.
func (x *index) write(repo string) error {
	return statefile.ReplaceCacheFile(filepath.Join(repo, indexName), fileMode, statefile.Bytes(x.encode()))
}

// encode returns: magic, head, number of files, files, number of trees, trees,
// SHA-256 of all that. Numbers are varints.
func (x *index) encode() []byte {
	size := len(indexMagic) + len(x.head) + 2*binary.MaxVarintLen64 + sha256.Size
	for path := range x.files {
		size += len(path) + maxEntryBytes
	}
	for path, hash := range x.trees {
		size += binary.MaxVarintLen64 + len(path) + len(hash)
	}
	b := make([]byte, 0, size) // growing it would take twice the memory
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

// maxEntryBytes limits an entry without its path: the length of the path, five
// numbers, a byte and the hash.
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

// decoder reads values from the front of rest; failed is set if one is missing.
type decoder struct {
	rest   []byte
	failed bool
}

// next returns the next n bytes; n is negative if they are invalid.
func (d *decoder) next(n int) []byte {
	if n < 0 || n > len(d.rest) {
		d.failed, d.rest = true, nil
		return nil
	}
	var b []byte
	b, d.rest = d.rest[:n], d.rest[n:]
	return b
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	d.next(cmp.Or(n, -1))
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	d.next(cmp.Or(n, -1))
	return v
}

func (d *decoder) string() string { return string(d.next(int(d.uvarint()))) }

func (d *decoder) byte() byte {
	var b [1]byte
	copy(b[:], d.next(1))
	return b[0]
}

func (d *decoder) hash() (h plumbing.Hash) {
	copy(h[:], d.next(len(h)))
	return h
}

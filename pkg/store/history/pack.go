package history

import (
	"bytes"
	"encoding/binary"
	"os"
	"sort"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"

	"github.com/notef-neighbor/dreamcore/pkg/system/tree"
)

const (
	maxPacks      = 200      // each takes two descriptors
	maxDeltaDepth = 4095     // the limit of stock git
	packCache     = 32 << 20 // bytes in the caches of all packs of a repository
	cachedCost    = 128      // bytes for each cached object, however small it is
)

// pack is a foreign file with many objects, and its index. The index is only a
// hint where to look: an object is verified by its hash when it is read. The
// library's index would be read into memory as a whole, and its reader of packs
// has no limit on deltas.
type pack struct {
	data    *os.File
	index   *os.File
	count   int64 // objects
	scanner *packfile.Scanner
	cache   map[int64]packObject // by offset
}

type packObject struct {
	kind    plumbing.ObjectType
	content []byte
}

// openPacks opens the packs in dir that have a plausible index. Of a directory
// with more than most names it looks at some only.
func openPacks(dir *os.Root, most int) (packs []*pack) {
	d, err := dir.Open(".")
	if err != nil {
		return nil
	}
	defer d.Close()
	const batch = 1024 // names
	for seen := 0; err == nil && seen < most; {
		var names []string
		names, err = d.Readdirnames(batch) // the error may be io.EOF
		seen += len(names)
		for _, name := range names {
			if base, ok := strings.CutSuffix(name, ".idx"); ok && len(packs) < maxPacks {
				if p := openPack(dir, base); p != nil {
					packs = append(packs, p)
				}
			}
		}
	}
	return packs
}

// Index of version 2: magic, version, a table of 256 counts, the hashes in
// order, a checksum and an offset for each, offsets that need 8 bytes, two
// hashes.
const (
	packMagic   = "\xfftOc\x00\x00\x00\x02"
	packTable   = 8
	packHashes  = packTable + 256*4
	largeOffset = 1 << 31
)

func openPack(dir *os.Root, base string) *pack {
	index, info, err := tree.OpenBelow(dir, base+".idx")
	if err != nil {
		return nil
	}
	data, _, err := tree.OpenBelow(dir, base+".pack")
	if err != nil {
		index.Close()
		return nil
	}
	p := &pack{data: data, index: index, cache: map[int64]packObject{}}
	magic := make([]byte, len(packMagic))
	_, err = index.ReadAt(magic, 0)
	count, ok := p.number(packTable + 255*4)
	if err != nil || !ok || string(magic) != packMagic || packHashes+count*28 > info.Size() {
		p.close()
		return nil
	}
	p.count = count
	p.scanner = packfile.NewScanner(data)
	return p
}

func (p *pack) close() {
	p.data.Close()
	p.index.Close()
}

func (p *pack) number(at int64) (int64, bool) {
	var b [4]byte
	_, err := p.index.ReadAt(b[:], at)
	return int64(binary.BigEndian.Uint32(b[:])), err == nil
}

// find returns the offset of an object according to the index.
func (p *pack) find(hash plumbing.Hash) (offset int64, ok bool) {
	var got plumbing.Hash
	i := int64(sort.Search(int(p.count), func(i int) bool {
		if _, err := p.index.ReadAt(got[:], packHashes+int64(i)*20); err != nil {
			return false
		}
		return bytes.Compare(got[:], hash[:]) >= 0
	}))
	if i >= p.count {
		return 0, false
	}
	if _, err := p.index.ReadAt(got[:], packHashes+i*20); err != nil || got != hash {
		return 0, false
	}
	if offset, ok = p.number(packHashes + p.count*24 + i*4); !ok || offset < largeOffset {
		return offset, ok
	}
	var b [8]byte
	if _, err := p.index.ReadAt(b[:], packHashes+p.count*28+(offset-largeOffset)*8); err != nil {
		return 0, false
	}
	offset = int64(binary.BigEndian.Uint64(b[:]))
	return offset, offset >= 0
}

// packed opens an object of a pack: the one at the end of a chain of deltas, or
// a large blob as a stream. The scanner must not be used before that is closed.
func (f *foreign) packed(p *pack, offset int64, hash plumbing.Hash, limit int64) (*foreignObject, error) {
	var deltas [][]byte
	var at []int64
	held := int64(0) // bytes of deltas
	var base packObject
	for {
		if known, ok := p.cache[offset]; ok {
			base = known
			break
		}
		if len(deltas) > maxDeltaDepth {
			return nil, faultf("object %s results from too many others", Short(hash.String()))
		}
		h, err := p.scanner.SeekObjectHeader(offset)
		if err != nil {
			return nil, f.broken(hash, err)
		}
		isDelta := h.Type == plumbing.OFSDeltaObject || h.Type == plumbing.REFDeltaObject
		if h.Type == plumbing.BlobObject && h.Length > smallBytes && len(deltas) == 0 {
			r, err := p.scanner.ReadObject()
			if err != nil {
				return nil, f.broken(hash, err)
			}
			return &foreignObject{kind: h.Type, size: h.Length, source: source{r: r, spend: f.spend}, close: func() { r.Close() }}, nil
		}
		most := limit
		if isDelta {
			most = maxInMemoryBytes
		}
		content, err := f.inflate(p, h.Length, most, hash)
		if err != nil {
			return nil, err
		}
		if !isDelta {
			base = packObject{h.Type, content}
			f.keep(p, offset, base)
			break
		}
		if held += int64(len(content)); held > maxInMemoryBytes {
			return nil, faultf("object %s results from too many others", Short(hash.String()))
		}
		deltas, at = append(deltas, content), append(at, offset)
		offset = h.OffsetReference
		if h.Type == plumbing.REFDeltaObject {
			var ok bool
			if offset, ok = p.find(h.Reference); !ok {
				return nil, faultf("object %s is missing", Short(h.Reference.String()))
			}
		}
	}
	for i := len(deltas) - 1; i >= 0; i-- {
		result, err := f.patch(base.content, deltas[i], hash)
		if err != nil {
			return nil, err
		}
		base.content = result
		f.keep(p, at[i], base)
	}
	return &foreignObject{kind: base.kind, size: int64(len(base.content)), source: source{r: bytes.NewReader(base.content), spend: spent}, close: func() {}}, nil
}

// spent counts nothing: an object in memory was counted when it was read.
func spent(int64) error { return nil }

// keep caches an object that may be the base of others.
func (f *foreign) keep(p *pack, offset int64, o packObject) {
	if len(o.content) > packCache/4 {
		return
	}
	if f.cached += len(o.content) + cachedCost; f.cached > packCache {
		for _, other := range f.packs {
			clear(other.cache)
		}
		f.cached = len(o.content) + cachedCost
	}
	p.cache[offset] = o
}

// inflate returns the content of the object at the scanner's position.
func (f *foreign) inflate(p *pack, size, limit int64, hash plumbing.Hash) ([]byte, error) {
	if size < 0 || size > limit {
		return nil, faultf("object %s is larger than %d bytes", Short(hash.String()), limit)
	}
	r, err := p.scanner.ReadObject()
	if err != nil {
		return nil, f.broken(hash, err)
	}
	defer r.Close()
	if err := f.spend(size); err != nil { // before it is allocated: it may be false
		return nil, err
	}
	content, err := readExactly(r, size)
	if err != nil {
		return nil, f.broken(hash, err)
	}
	return content, nil
}

// patch applies a delta to an object. The second number of a delta is the size of
// the result.
func (f *foreign) patch(base, delta []byte, hash plumbing.Hash) ([]byte, error) {
	r := bytes.NewReader(delta)
	_, err := binary.ReadUvarint(r)
	var size uint64
	if err == nil {
		size, err = binary.ReadUvarint(r)
	}
	if err != nil || size > maxInMemoryBytes {
		return nil, faultf("object %s results from a delta that is invalid or too large", Short(hash.String()))
	}
	if err := f.spend(int64(size)); err != nil {
		return nil, err
	}
	result, err := packfile.PatchDelta(base, delta)
	if err != nil {
		return nil, f.broken(hash, err)
	}
	if cap(result) > len(result)+len(result)/4 {
		result = bytes.Clone(result) // its capacity takes memory as long as it is cached
	}
	return result, nil
}

package tree

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
)

// Digest is a hash of a tree. Two trees have the same digest if their entries
// have the same types, permissions, names, link targets and contents. Times do
// not count.
type Digest struct {
	sum   hash.Hash
	Files int
	Bytes int64
}

// NewDigest returns the digest of an empty tree.
func NewDigest() *Digest { return &Digest{sum: sha256.New()} }

// Add adds the next entry in the order of Walk. content is the SHA-256 of a
// file.
func (d *Digest) Add(e Entry, size int64, content []byte) {
	mode := e.Mode
	if mode&fs.ModeSymlink != 0 {
		mode = fs.ModeSymlink // links have no permissions
	} else if mode.IsRegular() {
		d.Files++
		d.Bytes += size
	}
	fmt.Fprintf(d.sum, "%d %d %q %q %x\n", mode, size, e.Path, e.Link, content)
}

// String returns 64 hexadecimal digits.
func (d *Digest) String() string { return hex.EncodeToString(d.sum.Sum(nil)) }

// DigestOf reads a whole tree and returns its digest.
func DigestOf(ctx context.Context, root *os.Root, skip Skip) (*Digest, error) {
	d := NewDigest()
	left := int64(MaxCopyBytes)
	for e, err := range Walk(ctx, root, skip) {
		if err != nil {
			return nil, err
		}
		var content []byte
		size := int64(0)
		if e.Mode.IsRegular() {
			f, err := e.Open()
			if err != nil {
				skip(e.Path, UnreadableReason)
				continue
			}
			h := sha256.New()
			size, err = Copy(ctx, h, f, left)
			f.Close()
			switch {
			case errors.Is(err, ErrTooLarge), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
				return nil, tooLarge(err)
			case err != nil:
				return nil, DiskError("read "+e.Path, err)
			}
			left -= size
			content = h.Sum(nil)
		}
		d.Add(e, size, content)
	}
	return d, nil
}

package image

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"
)

// verifier forwards bytes, and fails unless they have the size and the digest of a
// descriptor. It never returns more bytes than that size.
type verifier struct {
	r    io.Reader
	want v1.Descriptor
	sum  hash.Hash // nil if the digest is unknown
	n    int64
}

// verify returns a reader of the bytes that d describes. They are verified only
// when it returns io.EOF.
func verify(r io.Reader, d v1.Descriptor) io.Reader {
	v := &verifier{r: r, want: d}
	if d.Digest.Hex != "" {
		sum, err := v1.Hasher(d.Digest.Algorithm)
		if err != nil {
			return errorReader{flawf("its digest is of an unknown kind: %v", err)}
		}
		v.sum = sum
	}
	return v
}

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	if v.n+int64(n) > v.want.Size {
		return 0, flawf("it is longer than the %d bytes in its manifest", v.want.Size)
	}
	v.n += int64(n)
	if v.sum != nil {
		v.sum.Write(p[:n])
	}
	if err != io.EOF {
		return n, err
	}
	if v.n != v.want.Size {
		return n, flawf("it ends after %d of %d bytes", v.n, v.want.Size)
	}
	if v.sum == nil {
		return n, io.EOF
	}
	if got := hex.EncodeToString(v.sum.Sum(nil)); got != v.want.Digest.Hex {
		return n, flawf("it has the wrong digest %s:%s", v.want.Digest.Algorithm, got)
	}
	return n, io.EOF
}

type errorReader struct{ err error }

func (e errorReader) Read([]byte) (int, error) { return 0, e.err }

// maxWindow bounds the memory that a zstd layer may need; the tools of the format
// have the same default.
const maxWindow = 128 << 20

// unpackedStream returns the tar in a layer. The compression is detected from the
// content: docker archives do not declare it. The caller must call stop.
func unpackedStream(r io.Reader) (tar io.Reader, stop func(), err error) {
	none := func() {}
	b := bufio.NewReaderSize(r, 64<<10)
	head, err := b.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, none, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, none, broken(err)
		}
		return decompressor{z}, none, nil
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, none, broken(err)
		}
		return decompressor{z}, z.Close, nil
	}
	return b, none, nil
}

// decompressor turns the errors of a decompressor into flaws.
type decompressor struct{ r io.Reader }

func (p decompressor) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	if err != nil && err != io.EOF {
		err = broken(err)
	}
	return n, err
}

// broken turns an error of reading a layer into a flaw, unless the disk or the
// context caused it.
func broken(err error) error {
	if _, ok := errors.AsType[flaw](err); ok || diskHint(err) != "" {
		return err
	}
	if _, ok := errors.AsType[*fs.PathError](err); ok || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return flaw("it cannot be read: " + err.Error())
}

// ratioSlack is the size up to which a layer may have any compression ratio: small
// layers of zeros are harmless.
const ratioSlack = 64 << 20

// gauge bounds the bytes of the tar in a layer, and of its files, which can be
// larger if they have holes.
type gauge struct {
	ctx        context.Context
	r          io.Reader
	compressed int64 // bytes of the compressed layer
	ratio      int64
	slack      int64 // bytes that the ratio does not bound
	read       int64 // of the tar
	written    int64 // to files
	most       int64 // bound of read for any ratio
}

func (g *gauge) Read(p []byte) (int, error) {
	if err := g.ctx.Err(); err != nil {
		return 0, context.Cause(g.ctx)
	}
	n, err := g.r.Read(p)
	g.read += int64(n)
	if g.read > g.most {
		return 0, excess(fmt.Sprintf("it unpacks to more than %d bytes", g.most))
	}
	if e := g.check(g.read); e != nil {
		return 0, e
	}
	return n, err
}

// write counts n bytes that are about to be written to a file.
func (g *gauge) write(n int64) error {
	g.written += n
	return g.check(g.written)
}

func (g *gauge) check(n int64) error {
	if n > g.slack && (n-g.slack)/g.ratio > g.compressed {
		return excess(fmt.Sprintf("it unpacks from %d bytes to more than %d times as much (a compression bomb)", g.compressed, g.ratio))
	}
	return nil
}

package gateway

import (
	"bufio"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"io"
	"net/http"
	"strings"
)

// maxCodings bounds the nested encodings of an answer. Proxies apply one; two
// occur by mistake.
const maxCodings = 4

// decode removes the encodings of an answer that it supports (gzip, deflate),
// which some proxies apply despite Accept-Encoding: identity. Others remain, and
// the exchange rejects them. The reader must bound the decoded body, like every
// answer. More than maxCodings are left alone: each takes memory, and a header
// has room for thousands of them.
func decode(resp *http.Response) {
	codings := strings.Split(strings.Join(resp.Header.Values("Content-Encoding"), ","), ",")
	if len(codings) > maxCodings {
		resp.Header.Set("Content-Encoding", strings.Join(codings, ","))
		return
	}
	for len(codings) > 0 {
		last := strings.ToLower(strings.TrimSpace(codings[len(codings)-1]))
		switch last {
		case "", "identity":
		case "gzip", "x-gzip":
			resp.Body = &decoder{source: resp.Body, open: openGzip}
			resp.ContentLength = -1
		case "deflate":
			resp.Body = &decoder{source: resp.Body, open: openDeflate}
			resp.ContentLength = -1
		default:
			resp.Header.Set("Content-Encoding", strings.Join(codings, ","))
			return
		}
		codings = codings[:len(codings)-1]
	}
	resp.Header.Del("Content-Encoding")
	if resp.ContentLength < 0 {
		resp.Header.Del("Content-Length")
	}
}

// decoder decompresses a body as it arrives. It reads nothing before its first
// Read, so the header of the answer does not wait for the body.
type decoder struct {
	source io.ReadCloser
	open   func(*bufio.Reader) (io.Reader, error)
	packed *bufio.Reader
	plain  io.Reader
	err    error
}

func (d *decoder) Close() error { return d.source.Close() }

func (d *decoder) Read(p []byte) (int, error) {
	for d.err == nil {
		if d.plain == nil {
			if d.err = d.next(); d.err != nil {
				break
			}
		}
		n, err := d.plain.Read(p)
		if err == io.EOF { // the end of this part: gzip may have several
			d.plain, err = nil, nil
		}
		d.err = err
		if n > 0 {
			return n, nil
		}
	}
	return 0, d.err
}

// next opens the first part of the body, or the next one.
func (d *decoder) next() (err error) {
	first := d.packed == nil
	if first {
		d.packed = bufio.NewReader(d.source)
	}
	if _, err := d.packed.Peek(1); err != nil {
		return err // io.EOF at the end, also for an empty body
	}
	if d.plain, err = d.open(d.packed); err == nil {
		return nil
	}
	if !first && (errors.Is(err, gzip.ErrHeader) || errors.Is(err, errOnePart)) {
		return io.EOF // padding
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

var errOnePart = errors.New("this encoding has only one part")

func openGzip(r *bufio.Reader) (io.Reader, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, err
	}
	z.Multistream(false) // decoded data must not wait for the next part
	return z, nil
}

// openDeflate accepts both interpretations of "deflate": with the zlib header,
// as the standard requires, and without it.
func openDeflate(r *bufio.Reader) (io.Reader, error) {
	head, err := r.Peek(2)
	if err != nil {
		return nil, err
	}
	if head[0]&0x0f == 8 && (int(head[0])<<8|int(head[1]))%31 == 0 {
		return zlib.NewReader(r)
	}
	return flate.NewReader(r), nil
}

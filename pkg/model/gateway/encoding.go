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

// maxCodings bounds the encodings of an answer, one inside the other. Proxies
// put on one; two happen by mistake.
const maxCodings = 4

// decode takes off the encodings of an answer that it knows (gzip, deflate),
// which some proxies put on in spite of Accept-Encoding: identity. Others stay,
// and relay refuses them. What comes out is bounded by who reads it, as
// everything of an answer is. More than maxCodings stay too: each takes memory,
// and a header has room for thousands of them.
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

// decoder unpacks a body as it comes. It reads nothing before its first Read:
// the header of the answer does not wait for the body.
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
		if err == io.EOF { // of this part: gzip may have several
			d.plain, err = nil, nil
		}
		d.err = err
		if n > 0 {
			return n, nil
		}
	}
	return 0, d.err
}

// next opens the body, or what follows the end of a part.
func (d *decoder) next() (err error) {
	first := d.packed == nil
	if first {
		d.packed = bufio.NewReader(d.source)
	}
	if _, err := d.packed.Peek(1); err != nil {
		return err // io.EOF: the end, also of an empty body
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

var errOnePart = errors.New("this encoding has one part")

func openGzip(r *bufio.Reader) (io.Reader, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, err
	}
	z.Multistream(false) // what is ready must not wait for what follows
	return z, nil
}

// openDeflate takes both readings of "deflate": with the header of zlib, as the
// standard says, and without.
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

package egress

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Bounds of the start of a tunnel.
const (
	helloLimit = 10 * time.Second
	maxHello   = 64 << 10
)

// extensionECH marks an encrypted hello, whose real name is not visible.
const extensionECH = 0xfe0d

// hello is the first message of a TLS client.
type hello struct {
	server    string // requested name, in lower case; may be empty
	encrypted bool   // the hello, or another one inside it, is encrypted
	raw       []byte // all bytes that were read
}

var (
	errPeeked    = errors.New("hello parsed")
	errNoHello   = errors.New("no TLS hello")
	errLongHello = errors.New("the TLS hello is too long")
)

// peek reads a TLS hello from conn with the parser of crypto/tls, without
// responding.
func peek(ctx context.Context, conn net.Conn) (hello, error) {
	ctx, cancel := context.WithTimeout(ctx, helloLimit)
	defer cancel()
	r := &recorder{Conn: conn}
	var seen *hello
	err := tls.Server(r, &tls.Config{GetConfigForClient: func(i *tls.ClientHelloInfo) (*tls.Config, error) {
		seen = &hello{server: strings.ToLower(i.ServerName), encrypted: slices.Contains(i.Extensions, extensionECH)}
		return nil, errPeeked
	}}).HandshakeContext(ctx)
	if seen == nil {
		return hello{}, errors.Join(errNoHello, err)
	}
	seen.raw = r.read.Bytes()
	return *seen, nil
}

// check returns a refusal unless the hello is for the target.
func (h hello) check(t Target) *refusal {
	want := t.Host
	if _, isAddr := t.addr(); isAddr {
		want = "" // a hello does not name addresses
	}
	switch {
	case h.encrypted:
		return refuse(http.StatusForbidden, "the TLS hello is encrypted, and may be for another host")
	case h.server != want:
		return refuse(http.StatusForbidden, "the TLS hello names another host than the tunnel")
	}
	return nil
}

// recorder records everything read and discards writes.
type recorder struct {
	net.Conn
	read bytes.Buffer
}

func (r *recorder) Read(b []byte) (int, error) {
	if r.read.Len() >= maxHello {
		return 0, errLongHello
	}
	n, err := r.Conn.Read(b)
	r.read.Write(b[:n])
	return n, err
}

func (r *recorder) Write(b []byte) (int, error) { return len(b), nil }

// replay is a connection that returns bytes that were already read first.
type replay struct {
	net.Conn
	first io.Reader
}

func newReplay(conn net.Conn, first []byte) *replay {
	return &replay{conn, io.MultiReader(bytes.NewReader(first), conn)}
}

func (r *replay) Read(b []byte) (int, error) { return r.first.Read(b) }

// CloseWrite shuts down the sending side.
func (r *replay) CloseWrite() error {
	if c, ok := r.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

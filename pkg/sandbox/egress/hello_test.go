package egress

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"
)

// bytesConn is a connection that returns a client's bytes.
type bytesConn struct {
	io.Reader
	wrote int
}

func (c *bytesConn) Write(b []byte) (int, error)      { c.wrote += len(b); return len(b), nil }
func (c *bytesConn) Close() error                     { return nil }
func (c *bytesConn) LocalAddr() net.Addr              { return &net.UnixAddr{} }
func (c *bytesConn) RemoteAddr() net.Addr             { return &net.UnixAddr{} }
func (c *bytesConn) SetDeadline(time.Time) error      { return nil }
func (c *bytesConn) SetReadDeadline(time.Time) error  { return nil }
func (c *bytesConn) SetWriteDeadline(time.Time) error { return nil }

// clientHello returns the first message of a real client.
func clientHello(t testing.TB, cfg *tls.Config) []byte {
	t.Helper()
	var said bytes.Buffer
	err := tls.Client(&saying{bytesConn{Reader: bytes.NewReader(nil)}, &said}, cfg).Handshake()
	if said.Len() == 0 {
		t.Fatal(err)
	}
	return said.Bytes()
}

type saying struct {
	bytesConn
	said *bytes.Buffer
}

func (s *saying) Write(b []byte) (int, error) { return s.said.Write(b) }

func TestPeek(t *testing.T) {
	raw := clientHello(t, &tls.Config{ServerName: "API.example.com"})
	conn := &bytesConn{Reader: io.MultiReader(bytes.NewReader(raw), bytes.NewReader([]byte("and more")))}
	h, err := peek(t.Context(), conn)
	if err != nil || h.server != "api.example.com" || h.encrypted || !bytes.HasPrefix(append(h.raw, "and more"...), raw) {
		t.Fatalf("%+v %v", h, err)
	}
	if conn.wrote != 0 {
		t.Errorf("%d bytes were written to the client", conn.wrote)
	}
	api, ip := Target{"api.example.com", 443}, Target{"1.1.1.1", 443}
	if h.check(api) != nil || h.check(Target{"example.com", 443}) == nil || h.check(ip) == nil {
		t.Error("check accepted another name")
	}
	nameless, err := peek(t.Context(), &bytesConn{Reader: bytes.NewReader(clientHello(t, &tls.Config{ServerName: "1.1.1.1"}))})
	if err != nil || nameless.check(ip) != nil || nameless.check(api) == nil {
		t.Errorf("%+v %v", nameless, err)
	}
	if (hello{server: "api.example.com", encrypted: true}).check(api) == nil {
		t.Error("check accepted an encrypted hello")
	}
}

// withExtension adds an empty extension to the hello in a record.
func withExtension(raw []byte, id uint16) []byte {
	b := bytes.Clone(raw)
	at := 5 + 4 + 2 + 32
	at += 1 + int(b[at])
	at += 2 + int(b[at])<<8 + int(b[at+1])
	at += 1 + int(b[at])
	grow := func(i int) { n := int(b[i])<<8 + int(b[i+1]) + 4; b[i], b[i+1] = byte(n>>8), byte(n) }
	grow(at)
	grow(3)
	grow(7) // the low half of the three bytes of its length
	return append(b, byte(id>>8), byte(id), 0, 0)
}

func TestPeekSeesAnEncryptedHello(t *testing.T) {
	raw := clientHello(t, &tls.Config{ServerName: "api.example.com", MaxVersion: tls.VersionTLS12})
	if h, err := peek(t.Context(), &bytesConn{Reader: bytes.NewReader(withExtension(raw, 0x4a4a))}); err != nil || h.encrypted {
		t.Fatalf("%+v %v", h, err)
	}
	h, err := peek(t.Context(), &bytesConn{Reader: bytes.NewReader(withExtension(raw, extensionECH))})
	if err == nil && !h.encrypted {
		t.Errorf("%+v", h)
	}
	// A second name makes the hello invalid.
	if h, err := peek(t.Context(), &bytesConn{Reader: bytes.NewReader(withExtension(raw, 0))}); err == nil {
		t.Errorf("%+v", h)
	}
}

func TestPeekRefusesOtherData(t *testing.T) {
	for _, s := range []string{"", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "SSH-2.0-x\r\n", "\x16\x03\x01\xff\xff", "\x16\x03\x01\x00\x04\x02\x00\x00\x00", "\x80\x2e\x01\x00\x02"} {
		if h, err := peek(t.Context(), &bytesConn{Reader: bytes.NewReader([]byte(s))}); !errors.Is(err, errNoHello) {
			t.Errorf("%q: %+v %v", s, h, err)
		}
	}
}

func FuzzPeek(f *testing.F) {
	raw := clientHello(f, &tls.Config{ServerName: "api.example.com", NextProtos: []string{"h2"}})
	f.Add(raw)
	f.Add(withExtension(clientHello(f, &tls.Config{ServerName: "a.b", MaxVersion: tls.VersionTLS12}), extensionECH))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		conn := &bytesConn{Reader: bytes.NewReader(b)}
		h, err := peek(context.Background(), conn)
		if conn.wrote != 0 {
			t.Error("peek wrote to the client")
		}
		if err == nil && !bytes.HasPrefix(b, h.raw) {
			t.Error("raw differs from the bytes read")
		}
	})
}

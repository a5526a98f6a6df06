// Package pid1 implements the supervisor that runs as PID 1 in every sandbox,
// and the host's client for it.
//
// The two communicate over the supervisor's standard input and output. These
// are pipes that only the supervisor holds: nothing inside can reach them by a
// path. When the host's program dies they close, the supervisor exits, and the
// sandbox ends with it. Streams are multiplexed by yamux; the host opens one
// for each program or order, and the supervisor never opens any.
//
// A stream carries frames: one byte kind, four bytes length (big endian) and a
// payload of at most MaxFrame bytes. The first frame is an order in JSON. Both
// sides treat what they read as hostile: lengths are checked before memory is
// allocated, and an unknown kind ends the stream.
package pid1

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// MaxFrame bounds the payload of a frame in bytes.
const MaxFrame = 64 << 10

// maxOrder bounds an order in bytes, which carries arguments and environment.
const maxOrder = 1 << 20

type kind byte

const (
	kindOrder   kind = 'o' // host: order in JSON
	kindStdin   kind = 'i' // host: bytes for standard input
	kindEOF     kind = 'c' // host: close standard input
	kindWindow  kind = 'w' // host: size of the terminal, see encodeWindow
	kindStarted kind = 's' // guest: the program runs
	kindStdout  kind = '1' // guest
	kindStderr  kind = '2' // guest
	kindExit    kind = 'x' // guest: exitReport in JSON; the last frame
	kindDone    kind = 'd' // guest: the order is carried out
	kindFailed  kind = 'f' // guest: failure in JSON; the last frame
)

// errFrame is wrapped by errors about frames over the limit.
var errFrame = errors.New("frame too long")

// order is the first frame of a stream.
type order struct {
	Op     string   `json:"op"` // "start", "signal", "endall", "enduser"
	Handle uint64   `json:"handle,omitempty"`
	Args   []string `json:"args,omitempty"`
	Env    []string `json:"env,omitempty"`
	Dir    string   `json:"dir,omitempty"`
	UID    uint32   `json:"uid,omitempty"`
	GID    uint32   `json:"gid,omitempty"`
	Signal int      `json:"signal,omitempty"`

	Terminal *sandbox.Window `json:"terminal,omitempty"` // nil: pipes
}

const (
	opStart   = "start"
	opSignal  = "signal"
	opEndAll  = "endall"
	opEndUser = "enduser"
)

type exitReport struct {
	Code   int `json:"code"`
	Signal int `json:"signal"`
}

type failure struct {
	Message string `json:"message"`
}

// frames reads and writes the frames of one stream. Writing is safe for
// concurrent use, reading is not.
type frames struct {
	conn io.ReadWriter
	mu   sync.Mutex // guards writing
	head [5]byte    // of the frame being read
	buf  []byte     // payload of the frame being read
}

func newFrames(conn io.ReadWriter) *frames { return &frames{conn: conn} }

// read returns the next frame; its payload is valid until the next call.
func (f *frames) read(limit int) (kind, []byte, error) {
	if _, err := io.ReadFull(f.conn, f.head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(f.head[1:])
	if int64(n) > int64(limit) {
		return 0, nil, fmt.Errorf("%w: %d bytes, the limit is %d", errFrame, n, limit)
	}
	if cap(f.buf) < int(n) {
		f.buf = make([]byte, max(int(n), 4096))
	}
	f.buf = f.buf[:n]
	if _, err := io.ReadFull(f.conn, f.buf); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return kind(f.head[0]), f.buf, nil
}

func (f *frames) write(k kind, payload []byte) error {
	frame := make([]byte, 5+len(payload))
	frame[0] = byte(k)
	binary.BigEndian.PutUint32(frame[1:], uint32(len(payload)))
	copy(frame[5:], payload)
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err := f.conn.Write(frame)
	return err
}

func (f *frames) writeJSON(k kind, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return f.write(k, b)
}

// copyIn sends all of r as frames of kind k until the first error of reading or
// sending. io.EOF is not returned as an error.
func (f *frames) copyIn(k kind, r io.Reader) (reading, sending error) {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if sending := f.write(k, buf[:n]); sending != nil {
				return nil, sending
			}
		}
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		if err != nil {
			return err, nil
		}
	}
}

// sessionConfig returns the yamux configuration of both sides. Keep-alives are
// off: a dead peer shows as EOF of its pipe, and a sandbox that gets no CPU time
// for a while is not dead. After its own close, a side waits closeTimeout for
// the other's before it drops the stream with its unread data; 0 waits forever.
func sessionConfig(closeTimeout time.Duration) *yamux.Config {
	c := yamux.DefaultConfig()
	c.EnableKeepAlive = false
	c.ConnectionWriteTimeout = 60 * time.Second
	c.StreamCloseTimeout = closeTimeout
	c.LogOutput = io.Discard
	return c
}

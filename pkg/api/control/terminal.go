package control

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// Terminal is the operator's terminal of a program.
type Terminal struct {
	Keys    io.Reader // the keys of the operator
	Screen  io.Writer // gets the output as the program writes it, with control sequences
	Size    sandbox.Window
	Resized <-chan sandbox.Window // each value is a new size; may be nil
}

// gesture is one action of an operator at a terminal.
type gesture struct {
	Keys   []byte          `json:"keys,omitempty"`
	Window *sandbox.Window `json:"window,omitempty"`
}

const (
	// maxKeys bounds the keys of one gesture in bytes.
	maxKeys = 32 << 10
	// maxGesture bounds a gesture in bytes; base64 takes four for three.
	maxGesture = 2 * maxKeys
	// maxTyped bounds the keys that a program has not read yet in bytes.
	maxTyped = 1 << 20
)

// ExecTerminal runs a program in a sandbox on a terminal and returns its exit code.
// A Read of the keys may still be pending when it returns.
func (c *Client) ExecTerminal(ctx context.Context, name string, args []string, t Terminal) (code int, err error) {
	query := url.Values{"arg": args, "terminal": {fmt.Sprintf("%dx%d", t.Size.Columns, t.Size.Rows)}}
	body, desk := io.Pipe()
	defer body.Close()
	done := make(chan struct{})
	defer close(done)
	go func() { _ = desk.CloseWithError(sendKeys(desk, t.Keys)) }()
	go sendWindows(desk, t.Resized, done)
	return c.exec(ctx, "/sandboxes/"+url.PathEscape(name)+"/exec?"+query.Encode(), body, t.Screen, io.Discard)
}

// sendKeys sends keys until the keys or the program end. A gesture is one
// Write, so those of sendWindows do not come in between.
func sendKeys(w io.Writer, keys io.Reader) error {
	enc, buf := json.NewEncoder(w), make([]byte, maxKeys)
	for {
		n, err := keys.Read(buf)
		if n > 0 {
			if err := enc.Encode(gesture{Keys: buf[:n]}); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func sendWindows(w io.Writer, resized <-chan sandbox.Window, done <-chan struct{}) {
	enc := json.NewEncoder(w)
	for {
		select {
		case size, ok := <-resized:
			if !ok || enc.Encode(gesture{Window: &size}) != nil { // fails only if the program has ended
				return
			}
		case <-done:
			return
		}
	}
}

// desk is the service's side of an operator's terminal. It reads gestures even if the
// program reads no keys, because it must notice that the operator has gone.
type desk struct {
	terminal sandbox.Terminal
	resized  chan sandbox.Window // the latest size

	mu    sync.Mutex
	typed []byte
	err   error         // after typed
	news  chan struct{} // typed or err has changed
}

// newDesk returns a desk whose terminal has a size such as 80x24.
func newDesk(size string) (*desk, error) {
	columns, rows, _ := strings.Cut(size, "x")
	c, err := strconv.ParseUint(columns, 10, 16)
	if err == nil {
		var r uint64
		if r, err = strconv.ParseUint(rows, 10, 16); err == nil {
			d := &desk{resized: make(chan sandbox.Window, 1), news: make(chan struct{}, 1)}
			d.terminal = sandbox.Terminal{Size: sandbox.Window{Columns: uint16(c), Rows: uint16(r)}, Resized: d.resized}
			return d, nil
		}
	}
	return nil, &dreamcore.Error{Code: dreamcore.CodeInvalid, Message: "terminal is not a size in characters", Hint: "write it as 80x24", Err: err}
}

// follow reads gestures until r ends. If r is torn or malformed, it cancels the program,
// which may not be reading its keys.
func (d *desk) follow(r io.Reader, cancel context.CancelCauseFunc) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxGesture)
	for lines.Scan() {
		var g gesture
		if err := json.Unmarshal(lines.Bytes(), &g); err != nil {
			d.end(fmt.Errorf("read keys: %w", err))
			cancel(fmt.Errorf("read keys: %w", err))
			return
		}
		if g.Window != nil {
			d.resize(*g.Window)
		}
		d.typeKeys(g.Keys)
	}
	err := lines.Err()
	if err != nil {
		cancel(err)
	} else {
		err = io.EOF
	}
	d.end(err)
}

// resize replaces a size that the program has not got yet. Only follow calls it.
func (d *desk) resize(w sandbox.Window) {
	select {
	case <-d.resized:
	default:
	}
	d.resized <- w
}

// typeKeys drops keys for which there is no room, as terminals do.
func (d *desk) typeKeys(keys []byte) {
	d.mu.Lock()
	d.typed = append(d.typed, keys[:min(len(keys), maxTyped-len(d.typed))]...)
	d.mu.Unlock()
	d.tell()
}

func (d *desk) end(err error) {
	d.mu.Lock()
	if d.err == nil {
		d.err = err
	}
	d.mu.Unlock()
	d.tell()
}

func (d *desk) tell() {
	select {
	case d.news <- struct{}{}:
	default:
	}
}

// close ends a pending Read.
func (d *desk) close() { d.end(io.ErrClosedPipe) }

// Read returns keys. It must not be called concurrently.
func (d *desk) Read(p []byte) (int, error) {
	for {
		d.mu.Lock()
		n, err := copy(p, d.typed), d.err
		d.typed = d.typed[n:]
		if len(d.typed) == 0 {
			d.typed = nil
		}
		d.mu.Unlock()
		if n > 0 || len(p) == 0 {
			return n, nil
		}
		if err != nil {
			return 0, err
		}
		<-d.news
	}
}

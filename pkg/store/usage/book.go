package usage

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Options of a Book.
type Options struct {
	Prices Prices
	Limits Limits
	Days   int              // the books of how many days are kept; 0 means DefaultDays, the month that runs always is
	Logger *slog.Logger     // nil: no log
	Now    func() time.Time // nil: time.Now
}

const (
	// DefaultDays is how many days of books are kept.
	DefaultDays = 90
	// maxBytes bounds all books together; the oldest go first.
	maxBytes = 1 << 30
	// syncDelay is how long a record may be on its way to the disk. It survives
	// the end of its process at once, a power cut only after this.
	syncDelay = 500 * time.Millisecond
	// maxBacklog bounds the records that could not be written and are tried again.
	maxBacklog = 10000
	dirMode    = 0o700
	fileMode   = 0o600
)

// Book is the books of a state directory. Several processes may have it open.
// Its methods are safe for concurrent use.
type Book struct {
	root *os.Root
	opts Options
	log  *slog.Logger

	mu      sync.Mutex
	prices  Prices               // guarded by mu
	limits  Limits               // guarded by mu
	files   map[string]*dayFile  // guarded by mu; by day: today's and yesterday's
	read    map[string]int64     // guarded by mu; by day: up to where its file is in the sums
	over    string               // guarded by mu; the day that others no longer append to since the last turn
	today   string               // guarded by mu
	month   string               // guarded by mu
	machine budget               // guarded by mu
	users   map[string]*customer // guarded by mu
	backlog []Record             // guarded by mu; counted, but not written
	unknown map[string]bool      // guarded by mu; models without a price that were warned of
	closed  bool                 // guarded by mu

	kick chan struct{}
	stop chan struct{}
	done chan struct{}
}

// dayFile is one file of the books.
type dayFile struct {
	f     *os.File
	dirty bool // written and not synced
}

// Open opens the books in dir, makes them where they are missing, and sums up
// what was spent this month. The caller must Close the Book.
func Open(dir string, opts Options) (*Book, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Days <= 0 {
		opts.Days = DefaultDays
	}
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return nil, diskError("make the directory of the books", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, diskError("open the directory of the books", err)
	}
	b := &Book{
		root: root, opts: opts, log: opts.Logger, prices: opts.Prices, limits: opts.Limits,
		files: map[string]*dayFile{}, read: map[string]int64{}, users: map[string]*customer{}, unknown: map[string]bool{},
		kick: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
	b.mu.Lock()
	err = b.turn(opts.Now())
	b.mu.Unlock()
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	go b.keep()
	return b, nil
}

// Apply changes prices and limits for requests that begin after it.
func (b *Book) Apply(p Prices, l Limits) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.prices, b.limits = p, l
	for _, c := range b.users {
		c.rate = nil
	}
}

// Close writes what is left to the disk. It may be called more than once.
func (b *Book) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	b.mu.Unlock()
	close(b.stop)
	<-b.done
	b.mu.Lock()
	defer b.mu.Unlock()
	errs := []error{b.writeBacklog(), b.sync()}
	for _, d := range b.files {
		errs = append(errs, d.f.Close())
	}
	return errors.Join(append(errs, b.root.Close())...)
}

// keep brings records to the disk until Close.
func (b *Book) keep() {
	defer close(b.done)
	for {
		select {
		case <-b.stop:
			return
		case <-b.kick:
		}
		select {
		case <-b.stop:
			return
		case <-time.After(syncDelay):
		}
		if err := b.flush(); err != nil {
			b.log.Error("bring the books to the disk", "error", err)
		}
		b.condense()
	}
}

func (b *Book) wake() {
	select {
	case b.kick <- struct{}{}:
	default:
	}
}

// flush syncs without keeping requests waiting for the disk.
func (b *Book) flush() error {
	b.mu.Lock()
	var dirty []*dayFile
	for _, d := range b.files {
		if d.dirty {
			d.dirty = false
			dirty = append(dirty, d)
		}
	}
	b.mu.Unlock()
	for _, d := range dirty {
		// A file of the day before yesterday may be closed by now: it was synced.
		if err := d.f.Sync(); err != nil && !errors.Is(err, fs.ErrClosed) {
			return err
		}
	}
	return nil
}

// sync syncs every file. b.mu is held.
func (b *Book) sync() error {
	var errs []error
	for _, d := range b.files {
		if d.dirty {
			d.dirty = false
			errs = append(errs, d.f.Sync())
		}
	}
	return errors.Join(errs...)
}

// count adds a record to the sums. b.mu is held.
func (b *Book) count(r Record) {
	b.add(dayOf(r.Time), r.User, sum{r.Cost, r.Tokens().Total()})
}

// add adds what a user spent on a day. b.mu is held.
func (b *Book) add(day, user string, s sum) {
	if !strings.HasPrefix(day, b.month) {
		return
	}
	b.machine.add(s, day == b.today)
	if user != "" {
		b.customer(user).add(s, day == b.today)
	}
}

// catchUp reads what was appended since, by others and by us. b.mu is held.
func (b *Book) catchUp() error {
	for day := range b.files {
		if err := b.catchUpWith(day); err != nil {
			return err
		}
	}
	if b.files[b.today] == nil {
		return b.catchUpWith(b.today)
	}
	return nil
}

func (b *Book) catchUpWith(day string) error {
	d, err := b.file(day, false)
	if d == nil || err != nil {
		return err
	}
	info, err := d.f.Stat()
	if err != nil {
		return diskError("read the books", err)
	}
	at := b.read[day]
	if info.Size() <= at {
		return nil
	}
	n, err := readLines(io.NewSectionReader(d.f, at, info.Size()-at), b.count)
	b.read[day] = at + n
	return err
}

// file returns the open file of a day; nil where there is none yet. b.mu is held.
func (b *Book) file(day string, create bool) (*dayFile, error) {
	if d := b.files[day]; d != nil {
		return d, nil
	}
	flags := os.O_RDWR | os.O_APPEND
	if create {
		flags |= os.O_CREATE
	}
	f, err := b.root.OpenFile(day+extension, flags, fileMode)
	if !create && errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, diskError("open the books", err)
	}
	d := &dayFile{f: f}
	b.files[day] = d
	return d, nil
}

// write appends a record and counts it, whether it could be written or not: one
// that could not is tried again. b.mu is held.
func (b *Book) write(r Record) {
	if len(b.backlog) == 0 {
		err := b.append(r)
		if err == nil {
			return
		}
		b.log.Error("the books cannot be written: requests for the model are refused until they can", "error", err)
	}
	b.count(r)
	if len(b.backlog) < maxBacklog {
		b.backlog = append(b.backlog, r)
	}
}

func (b *Book) append(r Record) error {
	line, err := r.encode()
	if err != nil {
		return err
	}
	day := dayOf(r.Time)
	d, err := b.file(day, true)
	if err != nil {
		return err
	}
	if _, err := d.f.Write(line); err != nil {
		return diskError("write the books", err)
	}
	d.dirty = true
	b.wake()
	// It is written: what cannot be read back now is counted by the next request.
	if err := b.catchUpWith(day); err != nil {
		b.log.Error("read the books", "error", err)
	}
	return nil
}

// writeBacklog writes what could not be written before. It is counted already,
// so what is read back is left out. b.mu is held.
func (b *Book) writeBacklog() error {
	for len(b.backlog) > 0 {
		r := b.backlog[0]
		day := dayOf(r.Time)
		d, err := b.file(day, true)
		if err != nil {
			return err
		}
		if err := b.catchUpWith(day); err != nil {
			return err
		}
		line, err := r.encode()
		if err != nil {
			return err
		}
		if _, err := d.f.Write(line); err != nil {
			return diskError("write the books", err)
		}
		d.dirty = true
		skipped := false
		n, err := readLines(io.NewSectionReader(d.f, b.read[day], 1<<40), func(got Record) {
			if !skipped && sameRecord(got, r) {
				skipped = true
				return
			}
			b.count(got)
		})
		b.read[day] += n
		if err != nil {
			return err
		}
		b.backlog = b.backlog[1:]
	}
	b.backlog = nil
	return nil
}

func sameRecord(a, b Record) bool {
	return a.Time.Equal(b.Time) && a.Job == b.Job && a.Cost == b.Cost && a.Tokens() == b.Tokens()
}

// priceOf warns once of each model that has none. b.mu is held.
func (b *Book) priceOf(model string) Price {
	p, known := b.prices.Of(model)
	const maxWarned = 64 // the name comes out of a sandbox
	if !known && !b.unknown[model] && len(b.unknown) < maxWarned {
		b.unknown[model] = true
		b.log.Warn("no price is known for a model: the highest of the table counts; set one in `prices`", "model", fmt.Sprintf("%.128s", model))
	}
	return p
}

func diskError(action string, err error) error {
	e := &dreamcore.Error{Code: dreamcore.CodeSetup, Message: "cannot " + action, Err: err, Hint: "check the state directory with ls -ld and df -h"}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		e.Hint = "the disk of the state directory is full: free space there (df -h shows how much)"
	}
	return e
}

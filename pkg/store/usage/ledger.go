package usage

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// Options configures a Ledger.
type Options struct {
	Prices Prices
	Limits Limits
	Days   int          // number of days to keep; 0 means DefaultDays; the current month is always kept
	Logger *slog.Logger // optional
	// Observe is called with each record of this process. It must not call the
	// Ledger; optional.
	Observe func(Record)
	Now     func() time.Time // nil means time.Now
}

const (
	// DefaultDays is the number of days to keep by default.
	DefaultDays = 90
	// maxBytes bounds the size of all files; the oldest are removed first.
	maxBytes = 1 << 30
	// syncDelay is how long a record may stay unsynced. It survives the end of its
	// process at once, a power cut only after this.
	syncDelay = 500 * time.Millisecond
	// maxBacklog bounds the records that could not be written and will be retried.
	maxBacklog = 10000
	fileMode   = 0o600
)

// Ledger is the ledger of a state directory. Several processes may have it open.
// Its methods are safe for concurrent use.
type Ledger struct {
	root *os.Root
	opts Options
	log  *slog.Logger

	mu        sync.Mutex
	prices    Prices                 // guarded by mu
	limits    Limits                 // guarded by mu
	files     map[string]*dayFile    // guarded by mu; by day: today's and yesterday's
	read      map[string]int64       // guarded by mu; by day: offset up to which the file is in the sums
	closedDay string                 // guarded by mu; closed, but its sums are not saved yet
	today     string                 // guarded by mu
	month     string                 // guarded by mu
	machine   budget                 // guarded by mu
	others    others                 // guarded by mu
	users     map[string]*userBudget // guarded by mu
	backlog   []Record               // guarded by mu; counted, but not written yet
	unknown   map[string]bool        // guarded by mu; models without a price that were reported
	closed    bool                   // guarded by mu

	wakeup chan struct{}
	stop   chan struct{}
	done   chan struct{}
}

// dayFile is the open file of a day.
type dayFile struct {
	f     *os.File
	dirty bool // written but not synced
}

// Open opens the ledger in dir, which it creates if needed, and sums up the
// spending of this month. The caller must Close the Ledger.
func Open(dir string, opts Options) (*Ledger, error) {
	opts.Logger = cmp.Or(opts.Logger, slog.New(slog.DiscardHandler))
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Days <= 0 {
		opts.Days = DefaultDays
	}
	root, err := statefile.OpenDir(dir)
	if err != nil {
		return nil, diskError("open the directory of the ledger", err)
	}
	l := &Ledger{
		root: root, opts: opts, log: opts.Logger, prices: opts.Prices, limits: opts.Limits,
		files: map[string]*dayFile{}, read: map[string]int64{}, users: map[string]*userBudget{}, unknown: map[string]bool{},
		wakeup: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
	l.mu.Lock()
	err = l.advance(opts.Now())
	l.mu.Unlock()
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	go l.run()
	return l, nil
}

// Apply sets the prices and limits for requests that begin afterwards.
func (l *Ledger) Apply(prices Prices, limits Limits) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.prices, l.limits = prices, limits
	for _, c := range l.users {
		c.rate = nil
	}
}

// Close writes and syncs everything. It may be called more than once.
func (l *Ledger) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	l.mu.Unlock()
	close(l.stop)
	<-l.done
	l.mu.Lock()
	defer l.mu.Unlock()
	errs := []error{l.writeBacklog(), l.sync()}
	for _, d := range l.files {
		errs = append(errs, d.f.Close())
	}
	return errors.Join(append(errs, l.root.Close())...)
}

// run syncs records until Close.
func (l *Ledger) run() {
	defer close(l.done)
	for {
		select {
		case <-l.stop:
			return
		case <-l.wakeup:
		}
		select {
		case <-l.stop:
			return
		case <-time.After(syncDelay):
		}
		if err := l.flush(); err != nil {
			l.log.Error("sync the ledger", "error", err)
		}
		l.saveClosedDay()
	}
}

func (l *Ledger) wake() {
	select {
	case l.wakeup <- struct{}{}:
	default:
	}
}

// flush syncs the files without holding mu, so that requests do not wait for the
// disk.
func (l *Ledger) flush() error {
	l.mu.Lock()
	var dirty []*dayFile
	for _, d := range l.files {
		if d.dirty {
			d.dirty = false
			dirty = append(dirty, d)
		}
	}
	l.mu.Unlock()
	for _, d := range dirty {
		// The file of an earlier day may have been closed meanwhile: it was synced
		// then.
		if err := d.f.Sync(); err != nil && !errors.Is(err, fs.ErrClosed) {
			return err
		}
	}
	return nil
}

// sync syncs every file. It must be called with mu held.
func (l *Ledger) sync() error {
	var errs []error
	for _, d := range l.files {
		if d.dirty {
			d.dirty = false
			errs = append(errs, d.f.Sync())
		}
	}
	return errors.Join(errs...)
}

// count adds a record to the sums. It must be called with mu held.
func (l *Ledger) count(r Record) {
	l.add(sumsKey{dayOf(r.Time), r.User, r.Moved}, sum{r.Cost, r.Tokens().Total()})
}

// add adds what a user spent on a day. It must be called with mu held.
func (l *Ledger) add(k sumsKey, s sum) {
	day, user := k.day, k.user
	if !strings.HasPrefix(day, l.month) {
		return
	}
	if !k.moved {
		l.machine.add(s, day == l.today)
	}
	if user != "" {
		l.user(user).add(s, day == l.today)
	}
}

// catchUp reads the records that this process and others have appended. It must be
// called with mu held.
func (l *Ledger) catchUp() error {
	for day := range l.files {
		if err := l.catchUpWith(day); err != nil {
			return err
		}
	}
	if l.files[l.today] == nil {
		return l.catchUpWith(l.today)
	}
	return nil
}

func (l *Ledger) catchUpWith(day string) error {
	d, err := l.file(day, false)
	if d == nil || err != nil {
		return err
	}
	info, err := d.f.Stat()
	if err != nil {
		return diskError("read the ledger", err)
	}
	at := l.read[day]
	if info.Size() <= at {
		return nil
	}
	n, err := readLines(io.NewSectionReader(d.f, at, info.Size()-at), l.count)
	l.read[day] = at + n
	return err
}

// file returns the open file of a day. Without create, it returns nil if the file
// does not exist. It must be called with mu held.
func (l *Ledger) file(day string, create bool) (*dayFile, error) {
	if d := l.files[day]; d != nil {
		return d, nil
	}
	flags := os.O_RDWR | os.O_APPEND
	if create {
		flags |= os.O_CREATE
	}
	f, err := l.root.OpenFile(day+extension, flags, fileMode)
	if !create && errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, diskError("open the ledger", err)
	}
	d := &dayFile{f: f}
	l.files[day] = d
	return d, nil
}

// write appends a record and counts it. A record that cannot be written is counted
// too and retried later. It must be called with mu held.
func (l *Ledger) write(r Record) {
	if len(l.backlog) == 0 {
		err := l.append(r)
		if err == nil {
			return
		}
		l.log.Error("cannot write the ledger: requests for the model are refused until it can be written", "error", err)
	}
	l.count(r)
	if len(l.backlog) < maxBacklog {
		l.backlog = append(l.backlog, r)
	}
}

func (l *Ledger) append(r Record) error {
	line, err := r.encode()
	if err != nil {
		return err
	}
	day := dayOf(r.Time)
	d, err := l.file(day, true)
	if err != nil {
		return err
	}
	if _, err := d.f.Write(line); err != nil {
		return diskError("write the ledger", err)
	}
	d.dirty = true
	l.wake()
	// The record is written. If it cannot be read back now, the next request counts
	// it.
	if err := l.catchUpWith(day); err != nil {
		l.log.Error("read the ledger", "error", err)
	}
	return nil
}

// writeBacklog writes the records that could not be written before. They are
// counted already, so each is skipped when it is read back. It must be called with
// mu held.
func (l *Ledger) writeBacklog() error {
	for len(l.backlog) > 0 {
		r := l.backlog[0]
		day := dayOf(r.Time)
		d, err := l.file(day, true)
		if err != nil {
			return err
		}
		if err := l.catchUpWith(day); err != nil {
			return err
		}
		line, err := r.encode()
		if err != nil {
			return err
		}
		if _, err := d.f.Write(line); err != nil {
			return diskError("write the ledger", err)
		}
		d.dirty = true
		skipped := false
		n, err := readLines(io.NewSectionReader(d.f, l.read[day], 1<<40), func(got Record) {
			if !skipped && sameRecord(got, r) {
				skipped = true
				return
			}
			l.count(got)
		})
		l.read[day] += n
		if err != nil {
			return err
		}
		l.backlog = l.backlog[1:]
	}
	l.backlog = nil
	return nil
}

func sameRecord(a, b Record) bool {
	return a.Time.Equal(b.Time) && a.Job == b.Job && a.Cost == b.Cost && a.Tokens() == b.Tokens()
}

// priceOf returns the price of a model and warns once about each model that has
// none. It must be called with mu held.
func (l *Ledger) priceOf(model string) Price {
	p, known := l.prices.Of(model)
	const maxWarned = 64 // the names come from sandboxes
	if !known && !l.unknown[model] && len(l.unknown) < maxWarned {
		l.unknown[model] = true
		l.log.Warn("a model has no known price and is counted at the highest one of the table: set its price in `prices`", "model", fmt.Sprintf("%.128s", model))
	}
	return p
}

func diskError(action string, err error) error {
	e := statefile.Error(action, err)
	e.Code = dreamcore.CodeSetup
	return e
}

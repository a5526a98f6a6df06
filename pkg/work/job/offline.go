package job

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/journal"
	"github.com/notef-neighbor/dreamcore/pkg/store/record"
)

// Offline reads the jobs of a service that does not run, and changes nothing. It has
// the index open only while it reads it: a service that starts needs the index for
// itself. CodeBusy: a service has the index open.
type Offline struct {
	logs    *journal.Store // nil if there was never a job
	index   string         // its file; "" if it cannot be read
	service *Service       // reads logs
	rows    []dreamcore.Job

	dir    string
	stamps map[string]stamp // of what the list was read from, by path
}

// stamp tells one content of a file or directory from another.
type stamp struct {
	size int64
	at   time.Time // of the last change; zero if it is missing
}

func stampOf(path string) (s stamp) {
	if info, err := os.Stat(path); err == nil {
		s = stamp{info.Size(), info.ModTime()}
	}
	return s
}

// Unchanged reports whether the list has not changed since the Offline was opened.
// It looks at the directory, the index and the logs of the jobs that have not ended,
// and reads none of them.
func (o *Offline) Unchanged() bool {
	for path, was := range o.stamps {
		if stampOf(path) != was {
			return false
		}
	}
	return true
}

// watch notes how things are that Unchanged compares. It is called before they are
// read.
func (o *Offline) watch(paths ...string) {
	for _, path := range paths {
		o.stamps[path] = stampOf(path)
	}
}

// OpenOffline opens the logs in dir, which may be missing, and reads their index. The
// caller must Close the result.
func OpenOffline(dir, index string) (_ *Offline, err error) {
	o := &Offline{dir: dir, stamps: map[string]stamp{}}
	o.watch(dir, filepath.Join(dir, index))
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return o, nil
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, o.Close())
		}
	}()
	if o.logs, err = journal.Open(dir, journal.Options{}); err != nil {
		return nil, err
	}
	o.service = &Service{parts: Parts{Journal: o.logs}}
	ids, err := o.logs.Jobs()
	if err != nil {
		return nil, err
	}
	o.index = filepath.Join(dir, index)
	missing := ids
	err = o.withIndex(func(s *record.Store) (err error) {
		if missing, err = s.Missing(ids); err != nil {
			return err
		}
		rows, err := s.Unfinished()
		for _, r := range rows {
			o.watch(filepath.Join(dir, journal.FileName(r.ID)))
		}
		return err
	})
	if errors.Is(err, record.ErrUnreadable) {
		o.index, err = "", nil
	}
	if err != nil {
		return nil, err
	}
	return o, o.addMissing(missing)
}

// withIndex calls do with the index, if there is one that can be read.
func (o *Offline) withIndex(do func(*record.Store) error) (err error) {
	if o.index == "" {
		return nil
	}
	s, err := record.OpenReadOnly(o.index)
	if errors.Is(err, record.ErrInUse) {
		return &dreamcore.Error{Code: dreamcore.CodeBusy, Message: "the service is starting or stopping", Hint: "try again in a moment", Err: err}
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return do(s)
}

// addMissing reads the logs of the jobs that have no row: commands on this machine
// make them too.
func (o *Offline) addMissing(ids []string) error {
	for _, id := range ids {
		o.watch(filepath.Join(o.dir, journal.FileName(id)))
		p, err := o.service.read(id, time.Time{})
		if dreamcore.CodeOf(err) == dreamcore.CodeNotFound && err != nil {
			continue // removed meanwhile
		}
		if err != nil {
			return err
		}
		if p.ended {
			delete(o.stamps, filepath.Join(o.dir, journal.FileName(id))) // it does not change
		}
		o.rows = append(o.rows, p.row.Job)
	}
	slices.SortFunc(o.rows, newestFirst)
	return nil
}

func newestFirst(a, b dreamcore.Job) int {
	if record.PositionOf(a).Before(record.PositionOf(b)) {
		return 1
	}
	return -1
}

// Close closes the logs.
func (o *Offline) Close() error {
	if o.logs == nil {
		return nil
	}
	return o.logs.Close()
}

// List is Service.List.
func (o *Offline) List(f dreamcore.JobFilter) (dreamcore.JobPage, error) {
	if f.Limit <= 0 {
		f.Limit = dreamcore.DefaultPage
	}
	f.Limit = min(f.Limit, dreamcore.MaxPage)
	page := dreamcore.JobPage{Jobs: []dreamcore.Job{}}
	var before record.Position
	var err error
	if f.Cursor != "" {
		if before, err = record.ParseCursor(f.Cursor); err != nil {
			return page, err
		}
	}
	for _, j := range o.rows {
		if selects(f, j) && (f.Cursor == "" || record.PositionOf(j).Before(before)) {
			page.Jobs = append(page.Jobs, j)
		}
	}
	var rows []record.Row
	more := false
	err = o.withIndex(func(s *record.Store) (err error) {
		rows, more, err = s.List(f, nil)
		return err
	})
	if err != nil {
		return page, err
	}
	for _, r := range rows {
		page.Jobs = append(page.Jobs, r.Job)
	}
	slices.SortFunc(page.Jobs, newestFirst)
	if len(page.Jobs) > f.Limit {
		page.Jobs, more = page.Jobs[:f.Limit], true
	}
	if more && len(page.Jobs) > 0 {
		page.Next = record.PositionOf(page.Jobs[len(page.Jobs)-1]).Cursor()
	}
	return page, nil
}

// Get is Service.Get.
func (o *Offline) Get(id string) (dreamcore.Job, error) {
	for _, j := range o.rows {
		if strings.EqualFold(j.ID, id) {
			return j, nil
		}
	}
	if o.index == "" {
		return dreamcore.Job{}, &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "Job not found", Hint: "check the job id"}
	}
	var row record.Row
	err := o.withIndex(func(s *record.Store) (err error) {
		row, err = s.Get(id)
		return err
	})
	if err != nil || row.Final() {
		return row.Job, err
	}
	p, err := o.service.read(id, time.Time{}) // its row may be behind
	if err != nil {
		return row.Job, err
	}
	return p.row.Job, nil
}

// Reader is journal.Store.Reader.
func (o *Offline) Reader(id string, after uint64) (*journal.Reader, error) {
	if o.logs == nil {
		return nil, &dreamcore.Error{Code: dreamcore.CodeNotFound, Message: "Job not found", Hint: "check the job id"}
	}
	return o.logs.Reader(id, after)
}

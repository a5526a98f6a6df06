package route

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/record"
)

// Bounds of merged lists.
const (
	maxLists    = 4        // at once
	atOnce      = 4        // cells that are asked for one list at once
	maxListPage = 16 << 20 // the answer of one cell
)

// listing is a list that all cells have parts of. Every part is sorted by the same
// order, and a cursor is a position in that order, so that one cursor is valid for all
// cells: a page is the first entries of their pages together.
type listing struct {
	key   string // of the entries in the answer
	limit int
	entry func(raw json.RawMessage) (entry, error)
	query url.Values
}

// entry is an entry of a list.
type entry struct {
	order  []byte // entries are sorted by it
	cursor string // of the page after the entry
	user   dreamcore.UserID
	raw    json.RawMessage
	own    bool // it comes from the cell of its user
}

// listOf returns the listing that a request is for; ok is false for all others, and for
// those that a cell refuses.
func listOf(r *http.Request, endpoint string) (l listing, ok bool) {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil || len(q["user_id"]) > 0 || len(q["limit"]) > 1 || r.Method != http.MethodGet && r.Method != http.MethodHead {
		return l, false
	}
	switch endpoint {
	case "jobs":
		l = listing{key: "jobs", entry: jobEntry}
	case "users":
		l = listing{key: "users", entry: userEntry}
	default:
		return l, false
	}
	l.query, l.limit = q, dreamcore.DefaultPage
	if text := q.Get("limit"); text != "" {
		if l.limit, err = strconv.Atoi(text); err != nil || l.limit < 1 {
			return l, false
		}
		if l.limit > dreamcore.MaxPage {
			if l.limit = dreamcore.MaxPage; endpoint == "jobs" {
				return l, false
			}
		}
	}
	return l, true
}

// jobEntry has the newest job first.
func jobEntry(raw json.RawMessage) (entry, error) {
	var j struct {
		ID      string           `json:"id"`
		User    dreamcore.UserID `json:"user_id"`
		Created time.Time        `json:"created"`
	}
	err := json.Unmarshal(raw, &j)
	if err == nil {
		j.ID, err = dreamcore.ParseJobID(j.ID)
	}
	if err != nil {
		return entry{}, err
	}
	p := record.Position{Created: j.Created, ID: j.ID}
	order := p.Order()
	for i := range order {
		order[i] = ^order[i]
	}
	return entry{order, p.Cursor(), j.User, raw, false}, nil
}

func userEntry(raw json.RawMessage) (entry, error) {
	var u struct {
		ID string `json:"user_id"`
	}
	err := json.Unmarshal(raw, &u)
	if err != nil {
		return entry{}, err
	}
	id, err := dreamcore.ParseUserID(u.ID)
	return entry{[]byte(id), string(id), id, raw, false}, err
}

// page is a part of a list.
type page struct {
	entries []entry
	end     []byte // the order of the last entry, if others follow; else nil
}

// list answers with a page of all cells. A cell that does not answer makes the answer
// an error that names it: a list that lacks a cell would look complete.
func (rt *Router) list(x *exchange, l listing) error {
	ctx := x.r.Context()
	if err := rt.lists.Acquire(ctx, 1); err != nil {
		return err
	}
	defer rt.lists.Release(1)
	names := rt.cfg.Table.names()
	if len(names) == 0 {
		return errFault(faultNoMap, "")
	}
	// One cell first: it checks the request for all.
	whole, refusal, err := rt.part(ctx, x, l, names[0])
	if err != nil {
		return err
	}
	if refusal != nil {
		if after := refusal.header.Get("Retry-After"); after != "" {
			x.Header().Set("Retry-After", after)
		}
		x.send(refusal.status, refusal.body)
		return nil
	}
	parts := make(chan page)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	merged := make(chan page, 1)
	go func() {
		for p := range parts {
			whole = whole.merge(p, l.limit)
		}
		merged <- whole
	}()
	for _, name := range names[1:] {
		group.Go(func() error {
			p, refusal, err := rt.part(ctx, x, l, name)
			if err == nil && refusal != nil {
				err = errPart(name, fmt.Errorf("status %d: %.300s", refusal.status, refusal.body))
			}
			if err == nil {
				parts <- p
			}
			return err
		})
	}
	err = group.Wait()
	close(parts)
	whole = <-merged
	if err != nil {
		return err
	}
	x.answer(http.StatusOK, whole.object(l.key))
	return nil
}

func errPart(cell string, cause error) error {
	return &dreamcore.Error{Code: codeAway, Message: "The cell " + cell + " does not list what it has", Hint: "send the request again after the time in Retry-After", Err: cause}
}

// refusal is the answer of a cell that is no page.
type refusal struct {
	status int
	header http.Header
	body   []byte
}

// part returns the page of one cell.
func (rt *Router) part(ctx context.Context, x *exchange, l listing, name string) (page, *refusal, error) {
	q := url.Values{}
	for k, v := range l.query {
		q[k] = v
	}
	q.Set("limit", strconv.Itoa(l.limit))
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, (&url.URL{Path: "/" + l.key, RawQuery: q.Encode()}).String(), http.NoBody)
	if err != nil {
		return page{}, nil, err
	}
	resp, err := rt.side(x, r, want{kind: oneCell, name: name}, false)
	if err != nil {
		return page{}, nil, err
	}
	defer resp.Body.Close()
	raw, err := readAll(resp.Body, maxListPage)
	if err != nil {
		return page{}, nil, errPart(name, err)
	}
	if resp.StatusCode != http.StatusOK {
		return page{}, &refusal{resp.StatusCode, resp.Header, raw}, nil
	}
	p, err := rt.decodePage(raw, l, name)
	if err != nil {
		return page{}, nil, errPart(name, err)
	}
	return p, nil, nil
}

// decodePage decodes the page of a cell.
func (rt *Router) decodePage(raw []byte, l listing, name string) (page, error) {
	var members map[string]json.RawMessage
	var entries []json.RawMessage
	next := ""
	err := json.Unmarshal(raw, &members)
	if err == nil {
		err = json.Unmarshal(members[l.key], &entries)
	}
	if err == nil && members["next"] != nil {
		err = json.Unmarshal(members["next"], &next)
	}
	if err != nil {
		return page{}, err
	}
	if len(entries) > l.limit {
		return page{}, fmt.Errorf("%d entries, of %d that were wanted", len(entries), l.limit)
	}
	p, m := page{}, rt.cfg.Table.current()
	for _, raw := range entries {
		e, err := l.entry(raw)
		if err != nil {
			return page{}, err
		}
		e.own = m.User(e.user).Cell == name
		p.entries = append(p.entries, e)
	}
	if !slices.IsSortedFunc(p.entries, byOrder) {
		return page{}, errors.New("the entries are not in order")
	}
	if next != "" {
		if len(p.entries) == 0 {
			return page{}, errors.New("others follow no entry")
		}
		p.end = p.entries[len(p.entries)-1].order
	}
	return p, nil
}

func byOrder(a, b entry) int { return bytes.Compare(a.order, b.order) }

// merge returns the first entries of two pages together. Of an entry that both have,
// since its user was moved, that of the user's cell counts. What lies behind the end of
// a page comes with the next one: entries of its cell may lie between.
func (p page) merge(q page, limit int) page {
	all := append(slices.Clip(p.entries), q.entries...)
	slices.SortStableFunc(all, func(a, b entry) int {
		if c := byOrder(a, b); c != 0 || a.own == b.own {
			return c
		} else if a.own {
			return -1
		}
		return 1
	})
	all = slices.CompactFunc(all, func(a, b entry) bool { return byOrder(a, b) == 0 })
	end := p.end
	if q.end != nil && (end == nil || bytes.Compare(q.end, end) < 0) {
		end = q.end
	}
	keep := len(all)
	if end != nil {
		keep, _ = slices.BinarySearchFunc(all, end, func(e entry, end []byte) int {
			if bytes.Compare(e.order, end) <= 0 {
				return -1
			}
			return 1
		})
	}
	if keep > limit {
		keep, end = limit, all[limit-1].order
	}
	clear(all[keep:])
	return page{all[:keep], end}
}

// object returns the answer with this page.
func (p page) object(key string) any {
	raw := make([]json.RawMessage, 0, len(p.entries))
	for _, e := range p.entries {
		raw = append(raw, e.raw)
	}
	object := map[string]any{key: raw}
	if p.end != nil {
		object["next"] = p.entries[len(p.entries)-1].cursor
	}
	return object
}

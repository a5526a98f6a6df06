package route

import (
	"net/http"
	"slices"

	"github.com/notef-neighbor/dreamcore/pkg/api/server"
	"github.com/notef-neighbor/dreamcore/pkg/cluster/slots"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// kind says which cells can answer a request.
type kind int

const (
	anyCell  kind = iota
	cellOf        // the cell of a user
	oneOfAll      // the cell that has something whose user is not known
	oneCell       // the named one
)

// want is what a request needs.
type want struct {
	kind   kind
	user   dreamcore.UserID // of cellOf
	slot   int              // of oneOfAll: where to look first, or -1
	name   string           // of oneCell
	change bool             // it waits while the user moves or the cell ends
}

// likely returns where the answer probably is, the likeliest place first.
func (w want) likely(m *slots.Map) []slots.Place {
	switch {
	case w.kind == cellOf:
		return []slots.Place{m.User(w.user)}
	case w.kind == oneCell:
		return []slots.Place{{Cell: w.name}}
	case w.slot >= 0:
		return m.Slot(w.slot)
	}
	return nil
}

// places returns every cell, the likely ones first.
func (w want) places(m *slots.Map) []slots.Place {
	likely := w.likely(m)
	places := slices.Clone(likely)
	for _, c := range m.Cells() {
		if !slices.ContainsFunc(likely, func(p slots.Place) bool { return p.Cell == c }) {
			places = append(places, slots.Place{Cell: c})
		}
	}
	return places
}

// wantOf returns what a request needs. The user is where the servers look for one: in
// the path, or the job in the path stands for one, else in the query or the body. The
// error is for a request that names two users: the cells could take another one than
// the router.
func wantOf(r *http.Request, at server.Address, body []byte) (want, error) {
	w := want{slot: -1, change: isChange(r.Method) && at.Endpoint != "jobs/{id}/cancel"}
	if id, ok := at.Values["id"]; ok {
		id, err := dreamcore.ParseJobID(id)
		if err != nil {
			return want{}, nil // any cell refuses it
		}
		w.kind = oneOfAll
		if slot, ok := dreamcore.JobSlot(id); ok {
			w.slot = slot
		}
		return w, nil
	}
	if text, ok := at.Values["user_id"]; ok {
		return w.of(text), nil
	}
	text, err := oneUser(r.URL.Query()["user_id"], server.UserOf(body))
	if err != nil {
		return want{}, err
	}
	if text == "" && at.Endpoint == "projects/{project_id}" && !w.change {
		w.kind = oneOfAll
		return w, nil
	}
	return w.of(text), nil
}

// isChange reports whether requests with a method must wait while files are copied.
func isChange(method string) bool {
	return method != http.MethodGet && method != http.MethodHead && method != http.MethodOptions
}

// of returns w for the user with this id. Any cell refuses an invalid id.
func (w want) of(text string) want {
	user, err := dreamcore.ParseUserID(text)
	if err != nil {
		return want{}
	}
	w.kind, w.user = cellOf, user
	return w
}

// oneUser returns the only user that a request names, "" if it names none.
func oneUser(query []string, body string) (string, error) {
	if len(query) == 0 {
		return body, nil
	}
	named := query[0]
	same := func(other string) bool {
		a, errA := dreamcore.ParseUserID(named)
		b, errB := dreamcore.ParseUserID(other)
		return other == named || errA == nil && errB == nil && a == b
	}
	twice := slices.ContainsFunc(query, func(q string) bool { return q != named }) // as the servers compare them
	if twice || body != "" && !same(body) {
		return "", &dreamcore.Error{
			Code: dreamcore.CodeInvalid, Message: "user_id is given more than once", Hint: "send it once: in the query or in the body, as the endpoint wants it",
		}
	}
	return named, nil
}

package record

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// A key of the index is
//
//	scope, ids of the scope, state, time of creation, id of the job
//
// so that the rows of a scope in one state are neighbours, in the order of their
// creation. Each row has one key for each scope.
const (
	scopeAll     = 'a'
	scopeUser    = 'u'
	scopeProject = 'p'
	scopeBoth    = 'b' // user and project
	scopeUntold  = 'n' // without a state: the rows whose end is still to be told
)

// orderBytes is the length of the end of a key, which orders the rows.
const orderBytes = 8 + 16

// prefix returns the beginning of the keys of a filter, without the order.
func prefix(user dreamcore.UserID, project dreamcore.ProjectID, state dreamcore.JobState) []byte {
	k := make([]byte, 0, 2+2*16+orderBytes)
	switch {
	case user != "" && project != "":
		k = append(append(append(k, scopeBoth), idBytes(string(user))...), idBytes(string(project))...)
	case project != "":
		k = append(append(k, scopeProject), idBytes(string(project))...)
	case user != "":
		k = append(append(k, scopeUser), idBytes(string(user))...)
	default:
		k = append(k, scopeAll)
	}
	return append(k, stateByte(state))
}

// states are all states. Their places are part of the format.
var states = []dreamcore.JobState{dreamcore.JobQueued, dreamcore.JobRunning, dreamcore.JobSucceeded, dreamcore.JobFailed, dreamcore.JobCancelled}

func stateByte(s dreamcore.JobState) byte { return byte(1 + slices.Index(states, s)) }

// idBytes returns the bytes of a UUID, or zeros for a log of an earlier version that
// does not name its user or project.
func idBytes(s string) []byte {
	id, _ := uuid.Parse(s)
	return id[:]
}

// order returns the end of a key.
func order(created time.Time, id uuid.UUID) []byte {
	return append(binary.BigEndian.AppendUint64(nil, nanos(created)), id[:]...)
}

// nanos returns a time that is not negative as a number, so that numbers are in the
// order of times.
func nanos(t time.Time) uint64 { return uint64(max(t.UnixNano(), 0)) }

// keys returns every key of a row.
func keys(id uuid.UUID, r Row) [][]byte {
	end := order(r.Created, id)
	var all [][]byte
	for _, p := range [][]byte{
		prefix("", "", r.State), prefix(r.User, "", r.State), prefix("", r.Project, r.State), prefix(r.User, r.Project, r.State),
	} {
		all = append(all, append(p, end...))
	}
	if r.Untold {
		all = append(all, append([]byte{scopeUntold}, end...))
	}
	return all
}

// idempotencyKey returns the key of an idempotency key: each user has own ones.
func idempotencyKey(user dreamcore.UserID, hash []byte) []byte {
	return append(idBytes(string(user)), hash...)
}

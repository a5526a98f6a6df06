package show

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/history"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
	"github.com/notef-neighbor/dreamcore/pkg/work/account"
)

// when formats a time in the zone of the terminal; the zero time is "-".
func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return term.Time(t)
}

// next says how to see the rest of a list.
func next(io *term.IO, cursor string) {
	if cursor != "" && !io.JSON {
		io.Stderr().Hint("there are more: add --after " + cursor)
	}
}

// Users shows a page of users.
func Users(io *term.IO, list account.Users) error {
	err := List[account.User]{
		All: list, Empty: "no users",
		Columns: Columns("USER", ">PROJECTS", ">FILES", ">VERSIONS", ">LOGS", ">DISK", ">USD THIS MONTH", "LAST CHANGE", "SANDBOX", "BLOCKED"),
		Cells: func(u account.User) []string {
			blocked := "-"
			if u.Block != nil {
				blocked = "blocked"
			}
			return []string{
				string(u.ID), strconv.Itoa(u.Projects), term.Size(u.FileBytes), term.Size(u.VersionBytes), term.Size(u.LogBytes),
				term.Size(u.DiskBytes), dreamcore.Nano(u.Spent).String(), when(u.Changed), cmp.Or(string(u.Sandbox), "-"), blocked,
			}
		},
	}.Show(io, list.Users, nil)
	next(io, list.Next)
	return err
}

// User shows a user.
func User(io *term.IO, u account.User) error {
	if io.JSON {
		return io.WriteJSON(u)
	}
	blocked := "no"
	if u.Block != nil {
		blocked = "since " + when(u.Block.Since)
		if u.Block.Reason != "" {
			blocked += ": " + term.Clean(u.Block.Reason)
		}
	}
	io.Stdout().Pairs(
		term.Pair{Key: "user", Value: string(u.ID), Tone: term.Strong},
		term.Pair{Key: "projects", Value: fmt.Sprintf("%d, %s of files", u.Projects, term.Size(u.FileBytes))},
		term.Pair{Key: "versions", Value: fmt.Sprintf("%d, %s on disk", u.Versions, term.Size(u.VersionBytes))},
		term.Pair{Key: "jobs", Value: fmt.Sprintf("%d with an event log, %s on disk", u.Jobs, term.Size(u.LogBytes))},
		term.Pair{Key: "disk", Value: term.Size(u.DiskBytes)},
		term.Pair{Key: "spent", Value: "$" + dreamcore.Nano(u.Spent).String() + " this month (UTC)"},
		term.Pair{Key: "changed", Value: when(u.Changed)},
		term.Pair{Key: "sandbox", Value: cmp.Or(string(u.Sandbox), "none")},
		term.Pair{Key: "blocked", Value: blocked},
	)
	return nil
}

// Projects shows a page of projects.
func Projects(io *term.IO, list account.Projects) error {
	err := List[account.Project]{
		All: list, Empty: "no projects", Columns: Columns("PROJECT", "OWNER", ">FILES", ">SIZE", ">VERSIONS", "LAST CHANGE"),
		Cells: func(p account.Project) []string {
			return []string{string(p.ID), string(p.User), strconv.Itoa(p.Files), term.Size(p.Bytes), strconv.Itoa(p.Versions), when(p.Changed)}
		},
	}.Show(io, list.Projects, nil)
	next(io, list.Next)
	return err
}

// Project shows a project.
func Project(io *term.IO, p account.Project) error {
	if io.JSON {
		return io.WriteJSON(p)
	}
	io.Stdout().Pairs(
		term.Pair{Key: "project", Value: string(p.ID), Tone: term.Strong},
		term.Pair{Key: "owner", Value: string(p.User)},
		term.Pair{Key: "files", Value: fmt.Sprintf("%d, %s", p.Files, term.Size(p.Bytes))},
		term.Pair{Key: "versions", Value: fmt.Sprintf("%d, %s on disk", p.Versions, term.Size(p.VersionBytes))},
		term.Pair{Key: "changed", Value: when(p.Changed)},
		term.Pair{Key: "newest", Value: term.Clean(strings.TrimSpace(p.Commit + " " + firstLine(p.Message) + checked(p.Acceptance)))},
	)
	return nil
}

// checked returns the verdict of the check of a version, to be put after its name.
func checked(verdict string) string {
	if verdict == "" {
		return ""
	}
	return " [check: " + verdict + "]"
}

func firstLine(s string) string {
	first, _, _ := strings.Cut(s, "\n")
	return first
}

// version is a version as JSON shows it, like git_log.
type version struct {
	Hash    string    `json:"hash"`
	Message string    `json:"message"`
	Date    time.Time `json:"date"`

	Acceptance string `json:"acceptance,omitempty"`
}

// Versions shows the versions of a project, the newest first.
func Versions(io *term.IO, versions []history.Version) error {
	return List[history.Version]{
		Key: "versions", Row: func(v history.Version) any { return version{v.Hash, v.Message, v.When, v.Acceptance} },
		Empty: "no versions", Columns: Columns("VERSION", "DATE", "~MESSAGE"),
		Cells: func(v history.Version) []string {
			return []string{history.Short(v.Hash), when(v.When), firstLine(v.Message) + checked(v.Acceptance)}
		},
	}.Show(io, versions, nil)
}

// Deletion shows the parts that a deletion has removed and those that it keeps.
func Deletion(io *term.IO, r account.Report) error {
	if io.JSON {
		return io.WriteJSON(r)
	}
	out := io.Stdout()
	what := "user " + string(r.User)
	if r.Project != "" {
		what = "project " + string(r.Project)
	}
	details := []string{fmt.Sprintf("%d projects", r.Projects), fmt.Sprintf("%d versions", r.Versions), fmt.Sprintf("%d jobs", r.Jobs), "about " + term.Size(r.Bytes)}
	if r.Cancelled > 0 {
		details = append(details, fmt.Sprintf("%d of the jobs were cancelled", r.Cancelled))
	}
	if r.Unblocked {
		details = append(details, "the block is gone too")
	}
	out.Success(what+" deleted", details...)
	for _, k := range r.Kept {
		out.Info(fmt.Sprintf("the %s keeps %s", k.Where, kept(k)))
		out.Print("  it holds " + k.Holds)
		out.Print("  why: " + k.Why)
	}
	return nil
}

func kept(k account.Kept) string {
	if k.Records == 0 {
		return "nothing"
	}
	text := fmt.Sprintf("%d records, from %s to %s", k.Records, when(k.First), when(k.Last))
	if k.Cost > 0 {
		text += ", $" + dreamcore.Nano(k.Cost).String()
	}
	return text
}

// Blocked shows the result of a block or its removal.
func Blocked(io *term.IO, b account.Blocked) error {
	if io.JSON {
		return io.WriteJSON(b)
	}
	if !b.Blocked {
		io.Stdout().Success("user " + string(b.User) + " is not blocked")
		return nil
	}
	details := []string{"since " + when(b.Since)}
	if b.Cancelled > 0 {
		details = append(details, fmt.Sprintf("%d jobs were cancelled", b.Cancelled))
	}
	io.Stdout().Success("user "+string(b.User)+" is blocked", details...)
	return nil
}

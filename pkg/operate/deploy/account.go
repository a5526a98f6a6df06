package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// ids are those that a file like /etc/passwd or /etc/group gives away.
type ids struct {
	byName map[string][2]int // the numbers of the third and the fourth field
	taken  map[int]string    // third field → name
}

// readIDs reads such a file. Lines that are not of its form are somebody
// else's business.
func readIDs(raw []byte) ids {
	r := ids{byName: map[string][2]int{}, taken: map[int]string{}}
	for line := range strings.Lines(string(raw)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 {
			continue
		}
		id, err := strconv.Atoi(f[2])
		if err != nil || f[0] == "" {
			continue
		}
		group, _ := strconv.Atoi(f[3]) // members in /etc/group: not used there
		r.byName[f[0]] = [2]int{id, group}
		if _, ok := r.taken[id]; !ok {
			r.taken[id] = f[0]
		}
	}
	return r
}

func (p *Plan) accounts() (users, groups ids, err error) {
	for _, f := range []struct {
		path string
		to   *ids
	}{{"/etc/passwd", &users}, {"/etc/group", &groups}} {
		host, err := p.at(f.path)
		if err != nil {
			return users, groups, err
		}
		raw, err := os.ReadFile(host)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // images may have none yet
			return users, groups, fileFault("read", host, err)
		}
		*f.to = readIDs(raw)
	}
	return users, groups, nil
}

// chooseAccount settles the ids of the account. Where nothing depends on them
// yet, ids that somebody has are replaced by free ones; else that is an error,
// because files of projects belong to those ids already.
func (p *Plan) chooseAccount() error {
	users, groups, err := p.accounts()
	if err != nil {
		return err
	}
	s := &p.o.Settings
	if have, ok := users.byName[Account]; ok {
		if p.o.FreeIDs {
			s.UID, s.GID = have[0], have[1]
		}
		if have != [2]int{s.UID, s.GID} {
			return &dreamcore.Error{
				Code:    dreamcore.CodeConflict,
				Message: fmt.Sprintf("the user %s has the ids %d:%d, but sandboxes are set to %d:%d", Account, have[0], have[1], s.UID, s.GID),
				Hint:    fmt.Sprintf("set sandbox_uid: %d and sandbox_gid: %d in the configuration, and chown what projects there are; or run: userdel %s", have[0], have[1], Account),
			}
		}
		return nil
	}
	free := func(uid, gid int) bool {
		group, ok := groups.taken[gid]
		return users.taken[uid] == "" && (!ok || group == Account)
	}
	if free(s.UID, s.GID) {
		return nil
	}
	if !p.o.FreeIDs {
		return &dreamcore.Error{
			Code:    dreamcore.CodeConflict,
			Message: fmt.Sprintf("the ids of sandboxes, %d:%d, belong to somebody else on this machine", s.UID, s.GID),
			Hint:    "set sandbox_uid and sandbox_gid to free ids in the configuration, and chown what projects there are",
		}
	}
	for id := 999; id >= 100; id-- { // ids of system accounts
		if free(id, id) {
			s.UID, s.GID = id, id
			return nil
		}
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeSetup, Message: "there is no free id for the user " + Account,
		Hint: "make the user " + Account + " with useradd, then run: dreamcore deploy",
	}
}

// accountLines declare the account. systemd-sysusers makes it, here at once
// and in an image at its first boot.
func (p *Plan) accountLines() []byte {
	s := p.o.Settings
	var b bytes.Buffer
	b.WriteString("# Made by: dreamcore deploy\n# The owner of what sandboxed agents write. Nobody logs in as it.\n")
	fmt.Fprintf(&b, "g %s %d\n", Account, s.GID)
	fmt.Fprintf(&b, "u %s %d:%d \"dreamcore sandboxes\" - -\n", Account, s.UID, s.GID)
	return b.Bytes()
}

// account is the user with its group.
type account struct{ plan *Plan }

func (a *account) name() string { return "user " + Account }

func (a *account) command() Command { return a.plan.command("systemd-sysusers", AccountFile) }

func (a *account) item() Item {
	s := a.plan.o.Settings
	return Item{Kind: "account", Note: fmt.Sprintf("uid %d, gid %d, no home, no login", s.UID, s.GID), Commands: []string{a.command().String()}}
}

func (a *account) check(context.Context) (Status, error) {
	ok, err := a.there()
	if ok {
		return Unchanged, err
	}
	return Created, err
}

func (a *account) there() (bool, error) {
	users, _, err := a.plan.accounts()
	_, ok := users.byName[Account]
	return ok, err
}

func (a *account) apply(ctx context.Context) (string, error) {
	if _, err := a.plan.o.Runner(ctx, a.command()); err != nil {
		return "", commandFault("make the user "+Account, err)
	}
	// It gives another id where a directory service has given this one away.
	want := [2]int{a.plan.o.Settings.UID, a.plan.o.Settings.GID}
	users, _, err := a.plan.accounts()
	if have, ok := users.byName[Account]; err == nil && (!ok || have != want) {
		err = &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: fmt.Sprintf("the user %s did not get the ids %d:%d", Account, want[0], want[1]),
			Hint: "make it yourself with useradd --system, set sandbox_uid and sandbox_gid in " + ConfigFile + ", then run: dreamcore deploy",
		}
	}
	return fmt.Sprintf("uid %d, gid %d", want[0], want[1]), err
}

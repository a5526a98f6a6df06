package deploy

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// ids are the entries of a file like /etc/passwd or /etc/group.
type ids struct {
	byName map[string][2]int // third and fourth field by name
	taken  map[int]string    // name by third field
}

// readIDs parses such a file and ignores malformed lines.
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

// ids reads such a file of the installation. An image may have none yet.
func (p *Plan) ids(path string) (ids, error) {
	raw, err := p.readFile(path)
	return readIDs(raw), statefile.IgnoreMissing(err)
}

// chooseAccount sets the ids of the account. Ids that another account has are
// replaced by free ones if FreeIDs is set; otherwise they are an error, because
// files of projects belong to those ids already.
func (p *Plan) chooseAccount() error {
	users, err := p.ids("/etc/passwd")
	if err != nil {
		return err
	}
	groups, err := p.ids("/etc/group")
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
				Code: dreamcore.CodeConflict, Reason: ReasonAccount,
				Message: fmt.Sprintf("the user %s has the ids %d:%d, but sandboxes are set to %d:%d", Account, have[0], have[1], s.UID, s.GID),
				Hint:    fmt.Sprintf("set sandbox_uid: %d and sandbox_gid: %d in the configuration and chown the existing projects, or run: userdel %s", have[0], have[1], Account),
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
			Code: dreamcore.CodeConflict, Reason: ReasonAccount,
			Message: fmt.Sprintf("the ids of sandboxes, %d:%d, belong to another account of this machine", s.UID, s.GID),
			Hint:    "set sandbox_uid and sandbox_gid to free ids in the configuration, and chown the existing projects",
		}
	}
	for id := 999; id >= 100; id-- { // ids of system accounts
		if free(id, id) {
			s.UID, s.GID = id, id
			return nil
		}
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeSetup, Reason: ReasonAccount, Message: "there is no free id for the user " + Account,
		Hint: "create the user " + Account + " with useradd",
	}
}

// accountLines returns the declaration of the account for systemd-sysusers,
// which creates it: here at once, in an image at its first boot.
func (p *Plan) accountLines() []byte {
	s := p.o.Settings
	var b bytes.Buffer
	b.WriteString("# Made by: dreamcore deploy\n# Owns the files that sandboxed agents write. It has no login.\n")
	fmt.Fprintf(&b, "g %s %d\n", Account, s.GID)
	fmt.Fprintf(&b, "u %s %d:%d \"dreamcore sandboxes\" - -\n", Account, s.UID, s.GID)
	return b.Bytes()
}

// account returns the action that creates the user with its group.
func (p *Plan) account() action {
	create := p.command("systemd-sysusers", AccountFile)
	want := [2]int{p.o.Settings.UID, p.o.Settings.GID}
	ids := fmt.Sprintf("uid %d, gid %d", want[0], want[1])
	return action{
		name: "user " + Account,
		item: func() Item {
			return Item{Kind: "account", Note: ids + ", no home, no login", Commands: []string{create.String()}}
		},
		check: func(context.Context) (Status, error) {
			users, err := p.ids("/etc/passwd")
			if _, ok := users.byName[Account]; ok {
				return Unchanged, err
			}
			return Created, err
		},
		apply: func(ctx context.Context) (string, error) {
			if _, err := p.o.Runner(ctx, create); err != nil {
				return "", commandFault("create the user "+Account, err)
			}
			// systemd-sysusers chooses another id if a directory service has assigned this one.
			users, err := p.ids("/etc/passwd")
			if have, ok := users.byName[Account]; err == nil && (!ok || have != want) {
				err = &dreamcore.Error{
					Code: dreamcore.CodeSetup, Reason: ReasonAccount, Message: fmt.Sprintf("the user %s did not get the ids %d:%d", Account, want[0], want[1]),
					Hint: "create it with useradd --system, and set sandbox_uid and sandbox_gid in " + ConfigFile,
				}
			}
			return ids, err
		},
	}
}

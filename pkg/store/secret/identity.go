package secret

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

const maxIdentityBytes = 64 << 10

// makeIdentity makes the identity where there is none. The caller holds the
// lock of the directory.
func makeIdentity(dir string) (created bool, err error) {
	path := filepath.Join(dir, identityName)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return false, nil // Open looks at what it is
	}
	if err := refuseOrphans(dir, path); err != nil {
		return false, err
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return false, &dreamcore.Error{Code: dreamcore.CodeInternal, Message: "cannot make an identity for the secrets", Hint: "run dreamcore setup again", Err: err}
	}
	text := fmt.Sprintf("# The key of the sealed secrets beside it. Keep a copy in a safe place.\n# created: %s\n# public key: %s\n%s\n",
		time.Now().UTC().Format(time.RFC3339), id.Recipient(), id)
	if err := writeFile(dir, identityName, []byte(text), false); err != nil {
		return false, fileError("write the identity of the secrets", path, err)
	}
	return true, nil
}

// refuseOrphans returns an error when there are sealed secrets, but not the
// identity that opens them.
func refuseOrphans(dir, path string) error {
	names, err := sealedNames(dir)
	if err != nil || len(names) == 0 {
		return err
	}
	return &dreamcore.Error{
		Code:    dreamcore.CodeSetup,
		Message: fmt.Sprintf("the identity %s is lost: %d sealed secrets cannot be opened", path, len(names)),
		Hint:    fmt.Sprintf("put the identity back from a backup; or give the secrets up and make new ones: rm %s/*%s && dreamcore setup", dir, extension),
	}
}

// loadIdentities reads the identity file. The first identity seals, all of
// them open.
func loadIdentities(dir, outside string) ([]*age.X25519Identity, error) {
	path := outside
	if path == "" {
		path = filepath.Join(dir, identityName)
	}
	// O_NONBLOCK: a FIFO in this place must not make us wait.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, identityMissing(dir, path, outside != "", err)
	}
	if err != nil {
		return nil, fileError("open the identity of the secrets", path, err)
	}
	defer f.Close()
	if err := checkPrivate(f, path); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxIdentityBytes+1))
	if err != nil {
		return nil, fileError("read the identity of the secrets", path, err)
	}
	defer clear(data)
	ids, ok := parseIdentities(data)
	if !ok {
		return nil, &dreamcore.Error{
			Code:    dreamcore.CodeSetup,
			Message: "the identity " + path + " is damaged: it holds no age X25519 key",
			Hint:    fmt.Sprintf("put it back from a backup: install -m 600 BACKUP %s; or give the secrets up and make new ones: rm %s %s/*%s && dreamcore setup", path, path, dir, extension),
		}
	}
	return ids, nil
}

// parseIdentities reads the text of an identity file. The parser's error may
// quote the key, so it goes nowhere.
func parseIdentities(text []byte) ([]*age.X25519Identity, bool) {
	if len(text) > maxIdentityBytes {
		return nil, false
	}
	parsed, err := age.ParseIdentities(bytes.NewReader(text))
	if err != nil {
		return nil, false
	}
	var ids []*age.X25519Identity
	for _, p := range parsed {
		id, ok := p.(*age.X25519Identity)
		if !ok {
			return nil, false
		}
		ids = append(ids, id)
	}
	return ids, len(ids) > 0
}

// givenIdentities reads an identity that was given as text and not as a file.
func givenIdentities(text string) ([]*age.X25519Identity, error) {
	ids, ok := parseIdentities([]byte(text))
	if !ok {
		return nil, &dreamcore.Error{
			Code:    dreamcore.CodeSetup,
			Message: "the identity that was given in the environment is damaged: it is no age X25519 key",
			Hint:    `give what the identity file holds: DREAMCORE_IDENTITY="$(cat FILE)"; age-keygen makes such a file`,
		}
	}
	return ids, nil
}

func identityMissing(dir, path string, outside bool, cause error) error {
	if outside {
		return &dreamcore.Error{
			Code:    dreamcore.CodeSetup,
			Message: "the identity file " + path + " does not exist",
			Hint:    "put it there: install -m 600 BACKUP " + path + "; under systemd it comes from LoadCredential= of the unit: systemctl cat dreamcore",
			Err:     cause,
		}
	}
	if target, err := os.Readlink(path); err == nil {
		// A deployed service has its identity as a credential, which is there
		// while it runs.
		return &dreamcore.Error{
			Code:    dreamcore.CodeSetup,
			Message: "the identity of the secrets is a credential of the service, which is not running: " + target + " does not exist",
			Hint:    "run: systemctl start dreamcore",
			Err:     cause,
		}
	}
	if err := refuseOrphans(dir, path); err != nil {
		return err
	}
	return &dreamcore.Error{Code: dreamcore.CodeSetup, Message: "the secrets in " + dir + " have no identity yet", Hint: "run: dreamcore setup", Err: cause}
}

// checkDir refuses a directory that others can look into or write to.
func checkDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fileError("open the directory of secrets", dir, err)
	}
	if !info.IsDir() {
		return &dreamcore.Error{Code: dreamcore.CodeSetup, Message: dir + " is not a directory", Hint: "move it away, then run: dreamcore setup"}
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && foreign(st.Uid) {
		return &dreamcore.Error{
			Code:    dreamcore.CodeSetup,
			Message: fmt.Sprintf("the directory of secrets %s belongs to another user (uid %d)", dir, st.Uid),
			Hint:    fmt.Sprintf("run the command as that user, or: chown -R %d %s", os.Geteuid(), dir),
		}
	}
	if info.Mode().Perm()&0o077 != 0 {
		return &dreamcore.Error{
			Code:    dreamcore.CodeSetup,
			Message: fmt.Sprintf("the directory of secrets %s is open to other users (mode %04o)", dir, info.Mode().Perm()),
			Hint:    "chmod 700 " + dir,
		}
	}
	return nil
}

// foreign tells whether a file of this owner could have been written by
// somebody who is neither root nor us.
func foreign(uid uint32) bool { return uid != 0 && uid != uint32(os.Geteuid()) }

// checkPrivate refuses an identity that another user can read or could have
// written.
func checkPrivate(f *os.File, path string) error {
	info, err := f.Stat()
	if err != nil {
		return fileError("look at the identity of the secrets", path, err)
	}
	if !info.Mode().IsRegular() {
		return &dreamcore.Error{Code: dreamcore.CodeSetup, Message: "the identity " + path + " is not a regular file", Hint: "see what it is with: ls -ld " + path + "; and name the file that holds the age key"}
	}
	euid := uint32(os.Geteuid())
	if st, ok := info.Sys().(*syscall.Stat_t); ok && foreign(st.Uid) {
		return &dreamcore.Error{
			Code:    dreamcore.CodeSetup,
			Message: fmt.Sprintf("the identity %s belongs to another user (uid %d)", path, st.Uid),
			Hint:    fmt.Sprintf("chown %d %s", euid, path),
		}
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 && !sharedWithSelf(f, perm, euid) {
		return &dreamcore.Error{
			Code:    dreamcore.CodeSetup,
			Message: fmt.Sprintf("the identity %s is open to other users (mode %04o)", path, perm),
			Hint:    "chmod 600 " + path,
		}
	}
	return nil
}

// sharedWithSelf tells whether the group bits of perm come from an access
// control list that lets in uid alone. systemd passes credentials like that:
// a file of root with an entry for the user of the service, which ls shows as
// mode 0440.
func sharedWithSelf(f *os.File, perm fs.FileMode, uid uint32) bool {
	if perm&0o027 != 0 {
		return false
	}
	acl := make([]byte, 4096)
	n, err := unix.Fgetxattr(int(f.Fd()), "system.posix_acl_access", acl)
	if err != nil {
		return false
	}
	return aclOnlyFor(acl[:n], uid)
}

// aclOnlyFor reads the kernel's form of an access control list: a version and
// entries of tag, permissions and id. It accepts entries for the owner, for
// uid, the mask, and others without any permission.
func aclOnlyFor(acl []byte, uid uint32) bool {
	const (
		version                                   = 2
		userObj, user, groupObj, group, mask, oth = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
		headerLen, entryLen                       = 4, 8
	)
	if len(acl) < headerLen || binary.LittleEndian.Uint32(acl) != version || (len(acl)-headerLen)%entryLen != 0 {
		return false
	}
	found := false
	for e := acl[headerLen:]; len(e) > 0; e = e[entryLen:] {
		tag, perm, id := binary.LittleEndian.Uint16(e), binary.LittleEndian.Uint16(e[2:]), binary.LittleEndian.Uint32(e[4:])
		switch {
		case tag == userObj, tag == mask:
		case tag == user && id == uid:
			found = true
		case (tag == user || tag == groupObj || tag == group || tag == oth) && perm == 0:
		default:
			return false
		}
	}
	return found
}

// fileError gives an error of the file system the hint that fits it.
func fileError(action, path string, err error) error {
	e := &dreamcore.Error{Code: dreamcore.CodeSetup, Message: "cannot " + action, Err: err}
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		e.Hint = "it must be readable and writable for this user; look at it with: ls -ld " + filepath.Dir(path) + " " + path
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		e.Hint = "the disk is full: free space there (df -h " + filepath.Dir(path) + " shows how much)"
	case errors.Is(err, syscall.ENOTDIR):
		e.Hint = "a part of the path is not a directory: choose another with --state DIR"
	default:
		e.Hint = "look at it with: ls -ld " + filepath.Dir(path) + " " + path
	}
	return e
}

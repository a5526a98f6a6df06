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
	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

const maxIdentityBytes = 64 << 10

// createIdentity creates the identity if it is missing. It must be called with the
// directory locked.
func createIdentity(dir *os.Root) (created bool, err error) {
	path := filepath.Join(dir.Name(), identityName)
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return false, nil // Open checks it
	}
	if err := refuseOrphans(dir.Name(), path); err != nil {
		return false, err
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return false, &dreamcore.Error{Code: dreamcore.CodeInternal, Message: "cannot create an identity for the secrets", Hint: "run dreamcore setup again", Err: err}
	}
	text := fmt.Sprintf("# The key of the sealed secrets in this directory. Keep a copy in a safe place.\n# created: %s\n# public key: %s\n%s\n",
		time.Now().UTC().Format(time.RFC3339), id.Recipient(), id)
	if err := statefile.Create(dir, identityName, fileMode, statefile.Bytes([]byte(text))); err != nil {
		return false, fileError("write the identity of the secrets", path, err)
	}
	return true, nil
}

// refuseOrphans returns an error if there are sealed secrets without the identity
// that opens them.
func refuseOrphans(dir, path string) error {
	names, err := sealedNames(dir)
	if err != nil || len(names) == 0 {
		return err
	}
	return errSetup(fmt.Sprintf("the identity %s is lost: %d sealed secrets cannot be opened", path, len(names)),
		fmt.Sprintf("restore the identity from a backup; or give the secrets up and create new ones: rm %s/*%s && dreamcore setup", dir, extension), nil)
}

// loadIdentities reads the identity file. The first identity seals, each of them
// opens.
func loadIdentities(dir, outside string) ([]*age.X25519Identity, error) {
	path := outside
	if path == "" {
		path = filepath.Join(dir, identityName)
	}
	// O_NONBLOCK: opening a FIFO must not block.
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
		return nil, errSetup("the identity "+path+" is damaged: it has no age X25519 key",
			fmt.Sprintf("restore it from a backup: install -m 600 BACKUP %s; or give the secrets up and create new ones: rm %s %s/*%s && dreamcore setup", path, path, dir, extension), nil)
	}
	return ids, nil
}

// parseIdentities parses the text of an identity file. It drops the error of the
// parser, which may quote the key.
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

// givenIdentities parses an identity that was passed as text instead of a file.
func givenIdentities(text string) ([]*age.X25519Identity, error) {
	ids, ok := parseIdentities([]byte(text))
	if !ok {
		return nil, errSetup("the identity in the environment is damaged: it is not an age X25519 key",
			`pass the content of the identity file: DREAMCORE_IDENTITY="$(cat FILE)"; age-keygen creates such a file`, nil)
	}
	return ids, nil
}

func identityMissing(dir, path string, outside bool, cause error) error {
	if outside {
		return errSetup("the identity file "+path+" does not exist",
			"put it there: install -m 600 BACKUP "+path+"; under systemd it comes from LoadCredential= of the unit: systemctl cat dreamcore", cause)
	}
	if target, err := os.Readlink(path); err == nil {
		// The identity of a deployed service is a systemd credential, which exists
		// while the service runs.
		return errSetup("the identity of the secrets is a credential of the service, which is not running: "+target+" does not exist",
			"run: systemctl start dreamcore", cause)
	}
	if err := refuseOrphans(dir, path); err != nil {
		return err
	}
	return errSetup("the secrets in "+dir+" have no identity yet", "run: dreamcore setup", cause)
}

// checkDir refuses a directory that other users can read or write.
func checkDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fileError("open the directory of secrets", dir, err)
	}
	if !info.IsDir() {
		return errSetup(dir+" is not a directory", "move it away, then run: dreamcore setup", nil)
	}
	return checkAccess(info, "the directory of secrets", dir, "run the command as that user, or: chown -R", "chmod 700")
}

// checkAccess refuses a file or directory that another user could have written or can
// read. chown and chmod are the commands of the hints, without the path and without
// the user; chown may have words before it.
func checkAccess(info fs.FileInfo, what, path, chown, chmod string) error {
	if st, ok := info.Sys().(*syscall.Stat_t); ok && foreign(st.Uid) {
		return errSetup(fmt.Sprintf("%s %s belongs to another user (uid %d)", what, path, st.Uid),
			fmt.Sprintf("%s %d %s", chown, os.Geteuid(), path), nil)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return errSetup(fmt.Sprintf("%s %s is open to other users (mode %04o)", what, path, perm), chmod+" "+path, nil)
	}
	return nil
}

// foreign reports whether uid is neither root nor the user of this process.
func foreign(uid uint32) bool { return uid != 0 && uid != uint32(os.Geteuid()) }

// checkPrivate refuses an identity that another user can read or could have
// written.
func checkPrivate(f *os.File, path string) error {
	info, err := f.Stat()
	if err != nil {
		return fileError("stat the identity of the secrets", path, err)
	}
	if !info.Mode().IsRegular() {
		return errSetup("the identity "+path+" is not a regular file", "inspect it with: ls -ld "+path+"; and use the file with the age key", nil)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && !foreign(st.Uid) && sharedWithSelf(f, info.Mode().Perm(), uint32(os.Geteuid())) {
		return nil
	}
	return checkAccess(info, "the identity", path, "chown", "chmod 600")
}

// sharedWithSelf reports whether the group bits of perm come from an access control
// list that admits uid alone. systemd passes credentials like that: a file of root
// with an entry for the user of the service, which ls shows as mode 0440.
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

// aclOnlyFor reports whether acl, in the kernel's encoding (a version and entries
// of tag, permissions and id), admits only the owner and uid. It accepts entries
// for the owner, for uid, the mask, and any others without permissions.
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

// fileError describes an error of the file system, with a hint that fits the cause.
func fileError(action, path string, err error) error {
	e := &dreamcore.Error{Code: dreamcore.CodeSetup, Message: "cannot " + action, Err: err}
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		e.Hint = "it must be readable and writable for this user; inspect it with: ls -ld " + filepath.Dir(path) + " " + path
	case statefile.IsFull(err):
		e.Hint = "the disk is full: free space there (df -h " + filepath.Dir(path) + " shows how much)"
	case errors.Is(err, syscall.ENOTDIR):
		e.Hint = "a part of the path is not a directory: choose another with --state DIR"
	default:
		e.Hint = "inspect it with: ls -ld " + filepath.Dir(path) + " " + path
	}
	return e
}

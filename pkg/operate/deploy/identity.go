package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Names in the state directory; pkg/store/secret documents them.
const (
	secretsDir    = "secrets"
	identityName  = "identity"
	sealedSuffix  = ".age"
	maxCredential = 64 << 10
)

// credentialsVar names the directory with the credentials of a process. systemd
// sets it for the service, this package for the commands that it runs.
const credentialsVar = "CREDENTIALS_DIRECTORY"

// identity returns the action that installs the key of the sealed secrets as a
// credential of the service. It is kept apart from the secrets, so that a copy
// of the state directory reveals nothing. If systemd-creds works here, the
// credential is encrypted for this machine, with its TPM if it has one. The
// state directory gets a link for commands at the terminal: to the credential,
// or to the file into which systemd decrypts it while the service runs.
func (p *Plan) identity() action {
	return action{
		name: identityStep, check: p.checkIdentity, apply: p.installIdentity,
		item: func() Item {
			it := Item{
				Kind: "credential", Path: p.credentialPath(), Mode: octal(0o600),
				Note: "the identity of the sealed secrets; " + p.linkPath() + " becomes a link to " + p.linkTarget(),
			}
			if p.sealed {
				it.Commands = []string{p.encryption().String()}
			}
			return it
		},
	}
}

const encryptedSuffix = ".cred"

// credentialPath returns the file that the unit names.
func (p *Plan) credentialPath() string {
	path := filepath.Join(ConfigDir, p.o.Credential)
	if p.sealed {
		path += encryptedSuffix
	}
	return path
}

// linkTarget returns the file in which commands at the terminal find the identity.
func (p *Plan) linkTarget() string {
	if p.sealed {
		return filepath.Join("/run/credentials", UnitName, p.o.Credential)
	}
	return p.credentialPath()
}

func (p *Plan) linkPath() string {
	return filepath.Join(p.o.Settings.State, secretsDir, identityName)
}

// chooseSealed reports whether the identity is, or will be, encrypted. An
// installed credential keeps its form.
func (p *Plan) chooseSealed(ctx context.Context) bool {
	for _, sealed := range []bool{true, false} {
		p.sealed = sealed
		if _, fi, err := p.lstat(p.credentialPath()); err == nil && fi != nil {
			return sealed
		}
	}
	_, err := p.o.Runner(ctx, p.command("systemd-creds", "--version"))
	return err == nil
}

func (p *Plan) encryption() Command {
	return p.command("systemd-creds", "encrypt", "--name="+p.o.Credential, "-", "-")
}

func (p *Plan) checkIdentity(context.Context) (Status, error) {
	_, fi, err := p.lstat(p.credentialPath())
	if err != nil || fi == nil {
		return Created, err
	}
	host, _, err := p.lstat(p.linkPath())
	if err != nil {
		return "", err
	}
	to, err := os.Readlink(host)
	return unchangedIf(err == nil && to == p.linkTarget() && p.proper(fi, 0o600)), nil
}

func (p *Plan) installIdentity(ctx context.Context) (string, error) {
	own, err := p.ownIdentity()
	if err != nil {
		return "", err
	}
	_, fi, err := p.lstat(p.credentialPath())
	if err != nil {
		return "", err
	}
	detail := ""
	if fi != nil {
		err = p.keepCredential(ctx, own)
	} else {
		if own == nil {
			own, err = p.newIdentity()
		}
		if err == nil {
			detail, err = p.writeCredential(ctx, own)
		}
	}
	if err != nil {
		return "", err
	}
	host, err := p.at(filepath.Dir(p.linkPath()))
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(host, 0o700); err != nil {
		return "", fileFault("make the directory", host, err)
	}
	return detail, p.relink(p.linkPath(), p.linkTarget())
}

// ownIdentity returns the identity file of the state directory, or nil if it
// does not exist or is our link.
func (p *Plan) ownIdentity() ([]byte, error) {
	host, fi, err := p.lstat(p.linkPath())
	if err != nil || fi == nil || fi.Mode()&fs.ModeSymlink != 0 {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > maxCredential {
		return nil, occupied(host, "the identity of the secrets")
	}
	raw, err := p.readFile(p.linkPath())
	if err != nil {
		return nil, err
	}
	if recipients(raw) == nil {
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Reason: ReasonIdentity, Message: "the identity " + host + " is damaged: it holds no age X25519 key",
			Hint: "restore it from a backup",
		}
	}
	return raw, nil
}

// recipients returns the public keys of an identity file, sorted, or nil if raw
// is no identity file. Errors of the parser may quote the key, so they are
// dropped.
func recipients(raw []byte) []string {
	parsed, err := age.ParseIdentities(bytes.NewReader(raw))
	if err != nil {
		return nil
	}
	var keys []string
	for _, id := range parsed {
		if x, ok := id.(*age.X25519Identity); ok {
			keys = append(keys, x.Recipient().String())
		}
	}
	slices.Sort(keys)
	return keys
}

// newIdentity returns a new identity. It fails if secrets exist that the new
// identity could not open.
func (p *Plan) newIdentity() ([]byte, error) {
	dir, err := p.at(filepath.Dir(p.linkPath()))
	if err != nil {
		return nil, err
	}
	orphans, err := filepath.Glob(filepath.Join(dir, "*"+sealedSuffix))
	if err != nil { // the path of a Root may look like a pattern
		return nil, fileFault("search", dir, err)
	}
	if len(orphans) > 0 {
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Reason: ReasonIdentity,
			Message: fmt.Sprintf("there are %d sealed secrets in %s, but not the identity that opens them", len(orphans), dir),
			Hint:    "restore the identity as " + p.linkPath() + ", or move the secrets away: mv " + dir + " " + dir + ".old",
		}
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, fmt.Errorf("create an identity: %w", err)
	}
	return fmt.Appendf(nil, "# The key of the sealed secrets of dreamcore.\n# created: %s\n# public key: %s\n%s\n",
		time.Now().UTC().Format(time.RFC3339), id.Recipient(), id), nil
}

// keepCredential checks that the installed credential is the identity of the
// state directory: two identities cannot be merged.
func (p *Plan) keepCredential(ctx context.Context, own []byte) error {
	host, err := p.at(p.credentialPath())
	if err != nil {
		return err
	}
	have, err := p.openIdentity(ctx)
	if err != nil {
		return err
	}
	if recipients(have) == nil || own != nil && !slices.Equal(recipients(have), recipients(own)) {
		return &dreamcore.Error{
			Code: dreamcore.CodeConflict, Reason: ReasonIdentity, Message: "the credential " + host + " is not the identity of " + p.linkPath(),
			Hint: "one of the two does not open your secrets: rename it",
		}
	}
	if err := p.protect(host, 0o600); err != nil {
		return fileFault("protect", host, err)
	}
	return nil
}

// writeCredential installs the identity. An encrypted credential is decrypted
// once for comparison before the plain identity is removed. If systemd-creds
// exists but cannot encrypt, the credential is a plain file, and the returned
// detail says so.
func (p *Plan) writeCredential(ctx context.Context, raw []byte) (string, error) {
	if !p.sealed {
		return "a file for root only", p.install(p.credentialPath(), 0o600, bytes.NewReader(raw))
	}
	cmd := p.encryption()
	cmd.Stdin = bytes.NewReader(raw)
	encrypted, err := p.o.Runner(ctx, cmd)
	if err != nil {
		failed, ok := errors.AsType[*CommandError](err)
		if !ok {
			return "", err
		}
		p.sealed = false
		reason, _, _ := strings.Cut(strings.TrimSpace(failed.Stderr), "\n")
		return "a file for root only: systemd-creds cannot encrypt here (" + reason + ")",
			p.install(p.credentialPath(), 0o600, bytes.NewReader(raw))
	}
	if err := p.install(p.credentialPath(), 0o600, bytes.NewReader(encrypted)); err != nil {
		return "", err
	}
	again, err := p.openIdentity(ctx)
	if err == nil && !bytes.Equal(again, raw) {
		err = errors.New("decrypting returns different content")
	}
	if err != nil {
		if host, aerr := p.at(p.credentialPath()); aerr == nil {
			_ = os.Remove(host) // the error below says what has failed
		}
		return "", fmt.Errorf("check the encrypted identity: %w", err)
	}
	return "encrypted for this machine", nil
}

// openIdentity reads the installed identity.
func (p *Plan) openIdentity(ctx context.Context) ([]byte, error) {
	if !p.sealed {
		return p.readFile(p.credentialPath())
	}
	host, err := p.at(p.credentialPath())
	if err != nil {
		return nil, err
	}
	raw, err := p.o.Runner(ctx, p.command("systemd-creds", "decrypt", "--name="+p.o.Credential, host, "-"))
	if err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return nil, commandFault("decrypt "+host, err)
		}
		if _, ok := errors.AsType[*CommandError](err); !ok {
			return nil, err
		}
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Reason: ReasonIdentity, Message: "the credential " + host + " cannot be decrypted", Err: err,
			Hint: "only the machine that encrypted it can decrypt it; if you have a copy of the identity, put it at " + p.linkPath() +
				" and move the credential away",
		}
	}
	return raw, nil
}

// withIdentity calls do with an environment in which our own program finds the
// identity as the service does. The plain identity lies below /run, in memory.
func (p *Plan) withIdentity(ctx context.Context, do func(env []string) error) (err error) {
	raw, err := p.openIdentity(ctx)
	if err != nil {
		return err
	}
	run, err := p.at("/run")
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(run, "dreamcore-deploy-")
	if err != nil {
		return fileFault("create a directory in", run, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.WriteFile(filepath.Join(dir, p.o.Credential), raw, 0o600); err != nil {
		return fileFault("write to", dir, err)
	}
	return do(append(p.environ(), credentialsVar+"="+dir))
}

// hasSecret reports whether the state directory has a sealed secret called name.
func (p *Plan) hasSecret(name string) bool {
	_, fi, err := p.lstat(filepath.Join(p.o.Settings.State, secretsDir, name+sealedSuffix))
	return err == nil && fi != nil
}

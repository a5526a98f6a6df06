package upstream

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/model/gateway"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
)

// Names of the parts of AWS credentials in a sealed secret; a profile file has the
// same ones in lower case.
const (
	awsKeyID   = "AWS_ACCESS_KEY_ID"
	awsSecret  = "AWS_SECRET_ACCESS_KEY"
	awsSession = "AWS_SESSION_TOKEN"
)

const defaultProfile = "default"

// credentials reads the current credentials of an entry. It passes them to hide
// before it returns them. Its errors are dreamcore.Errors and do not contain
// values.
type credentials struct {
	entry  Entry
	secret func(name string) (map[string]string, error)
	hide   func(string)
}

// key returns the API key of a reference NAME or NAME/KEY.
func (c credentials) key(ref string) (string, error) {
	v, err := c.open(ref)
	if err != nil {
		return "", err
	}
	c.hide(strings.TrimSpace(v))
	name, _, _ := strings.Cut(ref, "/")
	if why := secret.Miswritten(strings.TrimSpace(v)); why != "" {
		return "", setupError(ReasonCredential, "the secret "+name+" does not contain a usable key: "+why, c.entry.repair(), nil)
	}
	return v, nil
}

func (c credentials) open(ref string) (string, error) {
	name, key, keyed := strings.Cut(ref, "/")
	values, err := c.secret(name)
	if err != nil {
		return "", err
	}
	if keyed {
		if v, ok := values[key]; ok {
			return v, nil
		}
		return "", setupError(ReasonSecretKey, "the secret "+name+" does not have the key that the upstream "+c.entry.Name+" names", "use one of its keys, or add the key to the secret", nil)
	}
	if len(values) != 1 {
		return "", setupError(ReasonSecretKey, "the secret "+name+" has several values", "use NAME/KEY in the upstream "+c.entry.Name, nil)
	}
	for _, v := range values {
		return v, nil
	}
	return "", nil
}

// aws returns the credentials of Bedrock.
func (c credentials) aws() (aws.Credentials, error) {
	values, where := map[string]string(nil), "the secret "+c.entry.AWSCredentials
	var err error
	if c.entry.AWSFile != "" {
		where = "the profile " + cmp.Or(c.entry.AWSProfile, defaultProfile) + " in " + c.entry.AWSFile
		values, err = readProfile(c.entry.AWSFile, cmp.Or(c.entry.AWSProfile, defaultProfile))
	} else {
		values, err = c.secret(c.entry.AWSCredentials)
	}
	if err != nil {
		return aws.Credentials{}, err
	}
	out := aws.Credentials{Source: "dreamcore"}
	for _, part := range []struct {
		key    string
		into   *string
		needed bool
	}{{awsKeyID, &out.AccessKeyID, true}, {awsSecret, &out.SecretAccessKey, true}, {awsSession, &out.SessionToken, false}} {
		v := values[part.key]
		if v == "" && !part.needed {
			continue
		}
		if *part.into, err = gateway.CheckCredential(v); err == nil && secret.Miswritten(*part.into) != "" {
			err = errors.New(secret.Miswritten(*part.into))
		}
		if err != nil {
			return aws.Credentials{}, setupError(ReasonCredential, where+" does not contain a usable "+part.key, c.entry.repair(), err)
		}
		if part.into != &out.AccessKeyID {
			c.hide(*part.into)
		}
	}
	return out, nil
}

// Check returns an error if the entry's credential is missing or unusable. It
// does not use the network.
func (e Entry) Check(secret func(name string) (map[string]string, error)) error {
	c := credentials{entry: e, secret: secret, hide: func(string) {}}
	var err error
	switch {
	case e.Kind == Bedrock:
		_, err = c.aws()
	case e.Kind == Vertex:
		_, err = c.account()
	case e.APIKey != NoKey:
		var v string
		if v, err = c.key(cmp.Or(e.APIKey, e.Bearer)); err == nil {
			_, err = gateway.CheckCredential(v)
		}
	}
	if err == nil {
		_, err = e.trust()
	}
	if err == nil {
		return nil
	}
	hint := cmp.Or(dreamcore.HintOf(err), e.repair())
	return setupError(cmp.Or(dreamcore.ReasonOf(err), ReasonCredential), "the upstream "+e.Name+" cannot be used: "+message(err), hint, errors.Unwrap(err))
}

// maxProfiles bounds the profile file.
const maxProfiles = 1 << 20

// readProfile reads the keys in a profile of the aws command's file.
// Credentials that would have to be fetched (from a role, a program or a sign-on
// service) are not supported.
func readProfile(file, profile string) (map[string]string, error) {
	raw, err := readFile(file, maxProfiles)
	if err != nil {
		return nil, setupError(ReasonCredential, "the AWS credentials file cannot be read", "set aws_credentials_file to a readable file", err)
	}
	values, found := parseProfile(raw, profile)
	switch {
	case !found:
		return nil, setupError(ReasonCredential, "there is no profile "+profile+" in "+file, "run: aws configure --profile "+profile, nil)
	case values[awsKeyID] == "":
		return nil, setupError(ReasonCredential, "the profile "+profile+" in "+file+" does not contain keys", "run: aws configure --profile "+profile, nil)
	}
	return values, nil
}

// readFile reads a file of at most limit bytes.
func readFile(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(raw)) > limit {
		err = errors.New("it is too long")
	}
	return raw, err
}

// parseProfile reads the section [profile] or [profile NAME]. The last one of
// duplicate keys counts, as for the aws command.
func parseProfile(raw []byte, profile string) (values map[string]string, found bool) {
	values = map[string]string{}
	inside := false
	lines := bufio.NewScanner(bytes.NewReader(raw))
	lines.Buffer(nil, maxProfiles+1)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		if line[0] == '[' {
			name, _, _ := strings.Cut(line[1:], "]")
			name = strings.TrimSpace(name)
			if rest, ok := strings.CutPrefix(name, "profile "); ok {
				name = strings.TrimSpace(rest)
			}
			inside = name == profile
			found = found || inside
			continue
		}
		if key, value, ok := strings.Cut(line, "="); ok && inside {
			values[strings.ToUpper(strings.TrimSpace(key))] = strings.TrimSpace(value)
		}
	}
	return values, found
}

// Reasons of errors.
const (
	ReasonCredential dreamcore.Reason = "upstream.credential" // missing, unusable or refused
	ReasonSecretKey  dreamcore.Reason = "upstream.secret-key" // the secret does not have the key of the reference
	ReasonModels     dreamcore.Reason = "upstream.models"     // no name for the requested model
	ReasonCAFile     dreamcore.Reason = "upstream.ca-file"
	ReasonNone       dreamcore.Reason = "upstream.none" // an empty list
)

func setupError(reason dreamcore.Reason, message, hint string, err error) error {
	return &dreamcore.Error{Code: dreamcore.CodeSetup, Reason: reason, Message: message, Hint: hint, Err: err}
}

// message returns the text of an error for the operator.
func message(err error) string {
	if err == nil {
		return ""
	}
	if e := (*dreamcore.Error)(nil); errors.As(err, &e) {
		return e.Message
	}
	return fmt.Sprint(err)
}

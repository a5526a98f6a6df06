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

// Names of the parts of AWS credentials in a sealed secret; those in a file of
// profiles are the same in lower case.
const (
	awsKeyID   = "AWS_ACCESS_KEY_ID"
	awsSecret  = "AWS_SECRET_ACCESS_KEY"
	awsSession = "AWS_SESSION_TOKEN"
)

const defaultProfile = "default"

// credentials reads those of an entry, as they are now. What it returns, Hide
// has been told. Its errors are dreamcore.Errors and hold no value.
type credentials struct {
	entry  Entry
	secret func(name string) (map[string]string, error)
	hide   func(string)
}

// value returns the one value that NAME or NAME/KEY stands for.
func (c credentials) value(ref string) (string, error) {
	v, err := c.open(ref)
	if err == nil {
		c.hide(strings.TrimSpace(v))
	}
	return v, err
}

// key returns the API key that a reference stands for.
func (c credentials) key(ref string) (string, error) {
	v, err := c.value(ref)
	if err != nil {
		return "", err
	}
	name, _, _ := strings.Cut(ref, "/")
	if why := secret.Miswritten(strings.TrimSpace(v)); why != "" {
		return "", setupError("the secret "+name+" has no usable key: "+why, c.entry.mend(), nil)
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
		return "", setupError("the secret "+name+" has no key of the name that the upstream "+c.entry.Name+" gives", "its keys are shown by: dreamcore secret list", nil)
	}
	if len(values) != 1 {
		return "", setupError("the secret "+name+" has several values", "write NAME/KEY in the upstream "+c.entry.Name+"; the keys are shown by: dreamcore secret list", nil)
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
			return aws.Credentials{}, setupError(where+" has no usable "+part.key, c.entry.mend(), err)
		}
		if part.into != &out.AccessKeyID {
			c.hide(*part.into)
		}
	}
	return out, nil
}

// Check tells whether the entry's credential is there and can be used, without
// using the network.
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
	hint := cmp.Or(dreamcore.HintOf(err), e.mend())
	return setupError("the upstream "+e.Name+" cannot be used: "+message(err), hint, errors.Unwrap(err))
}

// maxProfiles bounds the file of profiles.
const maxProfiles = 1 << 20

// readProfile reads a profile's own keys from a file as the aws command keeps
// it. What would have to be fetched, from a role, a program or a sign-on
// service, is not: that must be named in words.
func readProfile(file, profile string) (map[string]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, setupError("the file of AWS profiles cannot be read", "name a readable file in aws_credentials_file", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxProfiles+1))
	if err == nil && len(raw) > maxProfiles {
		err = errors.New("it is too long")
	}
	if err != nil {
		return nil, setupError("the file of AWS profiles cannot be read", "name a readable file in aws_credentials_file", err)
	}
	values, found := parseProfile(raw, profile)
	switch {
	case !found:
		return nil, setupError("there is no profile "+profile+" in "+file, "run: aws configure --profile "+profile, nil)
	case values[awsKeyID] == "":
		return nil, setupError("the profile "+profile+" in "+file+" has no keys of its own", "run: aws configure --profile "+profile, nil)
	}
	return values, nil
}

// parseProfile reads the section [profile] or [profile NAME]; of a key that
// comes twice the last one counts, as for the aws command.
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

func setupError(message, hint string, err error) error {
	return &dreamcore.Error{Code: dreamcore.CodeSetup, Message: message, Hint: hint, Err: err}
}

// message is what an error says to an operator.
func message(err error) string {
	if err == nil {
		return ""
	}
	if e := (*dreamcore.Error)(nil); errors.As(err, &e) {
		return e.Message
	}
	return fmt.Sprint(err)
}

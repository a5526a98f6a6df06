package upstreamtest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Keys are AWS credentials.
type Keys struct{ ID, Secret, Session string }

// maxSkew is the largest accepted difference of the signer's clock.
const maxSkew = 5 * time.Minute

const algorithm = "AWS4-HMAC-SHA256"

// CheckSigV4 verifies the signature of a request as described in "Signing AWS API
// requests" of the AWS reference, for services other than S3. It shares no code
// with the SDK's signer.
func CheckSigV4(r *http.Request, body []byte, keys Keys, region, service string, now time.Time) error {
	fields, ok := strings.CutPrefix(r.Header.Get("Authorization"), algorithm+" ")
	if !ok {
		return errors.New("MissingAuthenticationToken: no signature")
	}
	part := map[string]string{}
	for f := range strings.SplitSeq(fields, ",") {
		k, v, _ := strings.Cut(strings.TrimSpace(f), "=")
		part[k] = v
	}
	stamp := r.Header.Get("X-Amz-Date")
	at, err := time.Parse("20060102T150405Z", stamp)
	if err != nil {
		return errors.New("IncompleteSignature: no date")
	}
	scope := stamp[:8] + "/" + region + "/" + service + "/aws4_request"
	signed := strings.Split(part["SignedHeaders"], ";")
	switch {
	case part["Credential"] != keys.ID+"/"+scope:
		return fmt.Errorf("UnrecognizedClient: credential %q", part["Credential"])
	case at.Sub(now).Abs() > maxSkew:
		return fmt.Errorf("InvalidSignature: Signature expired: %s, now %s", stamp, now.UTC().Format(time.RFC3339))
	case !slices.IsSorted(signed) || !slices.Contains(signed, "host"):
		return errors.New("IncompleteSignature: signed headers")
	case r.URL.RawQuery != "":
		return errors.New("InvalidSignature: a query")
	case r.Header.Get("X-Amz-Security-Token") != keys.Session:
		return errors.New("UnrecognizedClient: the security token is invalid")
	}
	for name := range r.Header {
		if name = strings.ToLower(name); strings.HasPrefix(name, "x-amz-") && !slices.Contains(signed, name) {
			return errors.New("IncompleteSignature: " + name + " is not signed")
		}
	}
	key := []byte("AWS4" + keys.Secret)
	for s := range strings.SplitSeq(scope, "/") {
		key = mac(key, s)
	}
	want := mac(key, algorithm+"\n"+stamp+"\n"+scope+"\n"+digest([]byte(canonical(r, body, signed))))
	got, err := hex.DecodeString(part["Signature"])
	if err != nil || !hmac.Equal(got, want) {
		return errors.New("InvalidSignature: The request signature we calculated does not match the signature you provided")
	}
	return nil
}

// canonical returns the canonical request. Bedrock's requests have no query.
func canonical(r *http.Request, body []byte, signed []string) string {
	var b strings.Builder
	// Each segment is encoded twice in the canonical request.
	fmt.Fprintf(&b, "%s\n%s\n\n", r.Method, encode(r.URL.EscapedPath()))
	for _, name := range signed {
		values := r.Header.Values(name)
		switch name {
		case "host":
			values = []string{r.Host}
		case "content-length":
			values = []string{fmt.Sprint(r.ContentLength)}
		}
		for i, v := range values {
			values[i] = strings.Join(strings.Fields(v), " ")
		}
		b.WriteString(name + ":" + strings.Join(values, ",") + "\n")
	}
	b.WriteString("\n" + strings.Join(signed, ";") + "\n" + digest(body))
	return b.String()
}

func encode(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || strings.IndexByte("-._~/", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func mac(key []byte, s string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(s))
	return h.Sum(nil)
}

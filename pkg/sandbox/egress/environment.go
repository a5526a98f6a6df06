package egress

import (
	"bytes"
	"fmt"
	"os"
	"path"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Port is where programs of a sandbox find the proxy on loopback: a relay
// takes it to the socket.
const Port = 3128

// bundleFiles are where systems keep the authorities that they trust, in one
// file: as crypto/x509 looks for them.
var bundleFiles = []string{
	"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
	"/etc/pki/tls/cacert.pem", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem",
}

// maxBundle bounds the file of authorities, which is copied for each sandbox.
const maxBundle = 8 << 20

// FindBundle returns the machine's file of trusted authorities, "" where there
// is none. named is what the operator's environment has in SSL_CERT_FILE.
func FindBundle(named string) string {
	if named != "" {
		return named
	}
	for _, name := range bundleFiles {
		if fi, err := os.Stat(name); err == nil && fi.Mode().IsRegular() {
			return name
		}
	}
	return ""
}

func readBundle(name string) ([]byte, error) {
	if name == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(name)
	if err == nil && len(raw) > maxBundle {
		err = fmt.Errorf("%d bytes are too many", len(raw))
	}
	if err == nil && !bytes.Contains(raw, []byte("-----BEGIN CERTIFICATE-----")) {
		err = fmt.Errorf("there is no certificate in it")
	}
	if err != nil {
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "the trusted certificates " + name + " cannot be used", Err: err,
			Hint: "name a file of certificates in PEM with SSL_CERT_FILE=FILE, or leave it out for the machine's own",
		}
	}
	return append(raw, '\n'), nil
}

// direct is what never goes through the proxy: what is inside, and the address
// of the model, which is a socket.
const direct = "localhost,127.0.0.1,::1,model.invalid"

// Environment is what points programs of a sandbox to the proxy and to the
// certificates that it may meet. dir is where the directory of Listen is
// inside.
func (s *Socket) Environment(dir string) []string {
	proxy := fmt.Sprintf("http://127.0.0.1:%d", Port)
	env := []string{
		"HTTP_PROXY=" + proxy, "HTTPS_PROXY=" + proxy, "http_proxy=" + proxy, "https_proxy=" + proxy,
		"NO_PROXY=" + direct, "no_proxy=" + direct,
		"NODE_USE_ENV_PROXY=1", // node takes no proxy from the environment without it
	}
	if s.bundle == "" {
		return env
	}
	file := path.Join(dir, bundleName)
	for _, name := range []string{"SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS"} {
		env = append(env, name+"="+file)
	}
	return env
}

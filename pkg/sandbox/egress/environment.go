package egress

import (
	"bytes"
	"fmt"
	"os"
	"path"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// Port is the loopback port of the proxy inside a sandbox. A relay forwards it
// to the socket.
const Port = 3128

// bundleFiles are the paths at which systems store trusted authorities in one
// file, as in crypto/x509.
var bundleFiles = []string{
	"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
	"/etc/pki/tls/cacert.pem", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem",
}

// maxBundle bounds the size of the file of authorities, which is copied for each
// sandbox.
const maxBundle = 8 << 20

// FindBundle returns the host's file of trusted authorities, or "" if there is
// no such file. named is the operator's SSL_CERT_FILE.
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
		err = fmt.Errorf("the file has %d bytes, the limit is %d", len(raw), maxBundle)
	}
	if err == nil && !bytes.Contains(raw, []byte("-----BEGIN CERTIFICATE-----")) {
		err = fmt.Errorf("the file contains no certificate")
	}
	if err != nil {
		return nil, &dreamcore.Error{
			Code: dreamcore.CodeSetup, Message: "the trusted certificates " + name + " cannot be used", Err: err,
			Hint: "set SSL_CERT_FILE to a file of PEM certificates, or unset it to use the host's own",
		}
	}
	return append(raw, '\n'), nil
}

// direct lists the destinations that bypass the proxy: loopback, and the address
// of the model, which is a socket.
const direct = "localhost,127.0.0.1,::1,model.invalid"

// Environment returns the variables that point a sandbox's programs to the proxy
// and to the certificates that they should trust. dir is the path inside the
// sandbox of the directory passed to Listen.
func (s *Socket) Environment(dir string) []string {
	proxy := fmt.Sprintf("http://127.0.0.1:%d", Port)
	env := []string{
		"HTTP_PROXY=" + proxy, "HTTPS_PROXY=" + proxy, "http_proxy=" + proxy, "https_proxy=" + proxy,
		"NO_PROXY=" + direct, "no_proxy=" + direct,
		"NODE_USE_ENV_PROXY=1", // without it, node ignores the proxy variables
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

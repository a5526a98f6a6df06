package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tlsServer starts a real server on loopback and adds its certificate to the
// trusted ones.
func tlsServer(t *testing.T, ip, roots string, h http.Handler) (address string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "server at " + ip}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.ParseIP(ip)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(roots, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := pem.Encode(f, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", ip+":0")
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(h)
	_ = s.Listener.Close()
	s.Listener = l
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return l.Addr().String()
}

// The real agent, with the proxy in its environment, still finds its model, and
// its commands find the hosts that are allowed and no others.
func TestSandboxesReachWhatIsAllowed(t *testing.T) {
	const canary = "sk-canary-5f2e8a61"
	const part = "canary-5f" // what the script looks for must not be the secret: it would be in the log
	for _, engine := range []string{"gvisor", "runc"} {
		t.Run(engine, func(t *testing.T) {
			h := newHost(t).unbounded()
			roots := filepath.Join(t.TempDir(), "roots.pem")
			given := make(chan string, 10)
			injected := tlsServer(t, "127.0.0.2", roots, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				given <- r.Header.Get("Authorization")
				_, _ = fmt.Fprintf(w, "injected: %s", r.Header.Get("Authorization"))
			}))
			tunnel := tlsServer(t, "127.0.0.3", roots, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "through a tunnel") }))
			h.env = append(h.env, "SSL_CERT_FILE="+roots)
			command := fmt.Sprintf("curl -sS https://%s/ >injected.txt; curl -sS https://%s/ >tunnel.txt 2>tunnel-error.txt; curl -sS https://evil.example.com/ >refused.txt 2>&1; curl -sS https://127.0.0.1:1/ --noproxy '' >>refused.txt 2>&1; "+
				"(env; cat /proc/*/environ | tr '\\0' '\\n'; grep -rIs %s /run /tmp /etc) >env.txt 2>&1; true", injected, tunnel, part)
			raw, err := json.Marshal(map[string]any{"conversations": []any{[]any{
				map[string]any{"tools": []any{map[string]any{"name": "Bash", "input": map[string]string{"command": command, "description": "fetch"}}}},
				map[string]any{"text": "done"},
			}}})
			if err != nil {
				t.Fatal(err)
			}
			args := []string{
				"generate", "fetch", "--runtime", engine, "--model-script", writeScript(t, string(raw)),
				"--allow-private-host", injected, "--allow-private-host", tunnel, "--inject", injected + "=vendor:authorization:Bearer",
			}
			// Without the secret nothing starts, and the hint shows how to create it.
			if r := h.run(args...); r.code != 1 || !strings.Contains(r.stderr, "secret vendor") || !strings.Contains(r.stderr, "dreamcore secret create") {
				t.Fatalf("%+v", r)
			}
			h.must("secret", "create", "vendor", "KEY="+canary)
			out := filepath.Join(t.TempDir(), "game")
			told := h.must(append(args, "-o", out)...)
			read := func(name string) string {
				b, err := os.ReadFile(filepath.Join(out, name))
				if err != nil {
					t.Fatal(err, told)
				}
				return string(b)
			}
			if got := read("injected.txt"); got != "injected: Bearer "+strings.Repeat("*", len(canary)) {
				t.Errorf("with a secret: %q", got)
			}
			if got := <-given; got != "Bearer "+canary {
				t.Errorf("the host was given %q", got)
			}
			if got := read("tunnel.txt"); got != "through a tunnel" {
				t.Errorf("through a tunnel: %q, %s", got, read("tunnel-error.txt"))
			}
			if got := read("refused.txt"); strings.Count(got, "403") != 2 {
				t.Errorf("refused: %q", got)
			}
			if got := read("env.txt"); strings.Contains(got, "canary") && !onlyCommand(got, part) || !strings.Contains(got, "HTTPS_PROXY=http://127.0.0.1:3128") {
				t.Errorf("environment: %s", got)
			}
			if strings.Contains(told, canary) {
				t.Errorf("it tells the secret: %s", told)
			}

			// Without a rule there is no proxy.
			h.must("generate", "fetch", "--runtime", engine, "--model-script", writeScript(t, string(raw)), "-o", out, "--force")
			if got := read("tunnel.txt") + read("env.txt"); strings.Contains(got, "_PROXY=") || strings.Contains(got, "SSL_CERT") || strings.Contains(got, "through") {
				t.Errorf("without a rule: %s", got)
			}
		})
	}
}

// onlyCommand reports whether the canary occurs only in the lines of the test's
// own command.
func onlyCommand(text, canary string) bool {
	for line := range strings.Lines(text) {
		if strings.Contains(line, canary) && !strings.Contains(line, "grep -rIs") {
			return false
		}
	}
	return true
}

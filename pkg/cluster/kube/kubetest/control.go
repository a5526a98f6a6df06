// Package kubetest runs an API server of Kubernetes with its database for tests. The
// programs come from scripts/cluster.sh.
package kubetest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// ProgramsEnv is the variable with the directory of the cluster programs; scripts/cluster.sh sets it.
const ProgramsEnv = "DREAMCORE_TEST_CLUSTER"

// Control is an API server with its database.
type Control struct {
	t       *testing.T
	dir     string
	program string
	etcd    string // address of clients
	port    string
	api     *exec.Cmd
	flags   []string // more, of the API server
	Account string   // directory of the account of the admin
}

func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return port
}

// Start starts an API server with more flags that ends with the test.
func Start(t *testing.T, flags ...string) *Control {
	t.Helper()
	programs := os.Getenv(ProgramsEnv)
	if programs == "" {
		t.Fatal("run scripts/cluster.sh, which sets " + ProgramsEnv)
	}
	c := &Control{t: t, dir: t.TempDir(), program: filepath.Join(programs, "hyper"), etcd: "http://127.0.0.1:" + freePort(t), port: freePort(t), flags: flags}
	c.writeKeys()
	peers := "http://127.0.0.1:" + freePort(t)
	c.run("etcd", "--data-dir", filepath.Join(c.dir, "etcd"), "--listen-client-urls", c.etcd, "--advertise-client-urls", c.etcd,
		"--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", "default="+peers, "--unsafe-no-fsync")
	c.Account = c.NewAccount("admintoken")
	c.StartAPI()
	return c
}

// run runs a program of the cluster until the end of the test.
func (c *Control) run(args ...string) *exec.Cmd {
	c.t.Helper()
	cmd := exec.Command(c.program, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.OpenFile(filepath.Join(c.dir, args[0]+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { end(cmd) })
	return cmd
}

// end ends a process that holds nothing worth keeping.
func end(cmd *exec.Cmd) {
	if cmd.ProcessState == nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

func (c *Control) file(name string) string { return filepath.Join(c.dir, name) }

func (c *Control) write(name string, content []byte) {
	c.t.Helper()
	if err := os.WriteFile(c.file(name), content, 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// writeKeys writes the certificate of the API server, the key of service accounts and
// the tokens.
func (c *Control) writeKeys() {
	c.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kube-apiserver"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		c.t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		c.t.Fatal(err)
	}
	c.write("tls.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	c.write("tls.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
	accounts, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		c.t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&accounts.PublicKey)
	if err != nil {
		c.t.Fatal(err)
	}
	c.write("sa.key", pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(accounts)}))
	c.write("sa.pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
	c.write("tokens.csv", []byte("admintoken,admin,admin,system:masters\nroutertoken,router,router\n"))
}

// NewAccount returns the directory of a service account with a token: admintoken and
// routertoken are valid.
func (c *Control) NewAccount(token string) string {
	c.t.Helper()
	dir := c.t.TempDir()
	ca, err := os.ReadFile(c.file("tls.crt"))
	if err != nil {
		c.t.Fatal(err)
	}
	for name, text := range map[string]string{"token": token + "\n", "namespace": "default", "ca.crt": string(ca)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			c.t.Fatal(err)
		}
	}
	return dir
}

// StartAPI starts the API server after StopAPI.
func (c *Control) StartAPI() {
	c.t.Helper()
	args := []string{"kube-apiserver", "--etcd-servers", c.etcd, "--secure-port", c.port, "--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1",
		"--service-cluster-ip-range", "10.96.0.0/16", "--tls-cert-file", c.file("tls.crt"), "--tls-private-key-file", c.file("tls.key"),
		"--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", c.file("sa.pub"), "--service-account-signing-key-file", c.file("sa.key"),
		"--authorization-mode", "RBAC", "--token-auth-file", c.file("tokens.csv"), "--endpoint-reconciler-type", "none", "--cert-dir", c.file("pki")}
	c.api = c.run(append(args, c.flags...)...)
	client := c.Client()
	defer client.CloseIdleConnections()
	deadline := time.Now().Add(3 * time.Minute)
	for {
		err := c.ask(client, "/readyz")
		if err == nil { // the namespace comes a little later
			err = c.ask(client, "/api/v1/namespaces/default")
		}
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(c.file("kube-apiserver.log"))
			c.t.Fatalf("the API server does not start: %v\n%s", err, log[max(0, len(log)-3000):])
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// Client returns a client that trusts the API server. The caller closes its idle
// connections.
func (c *Control) Client() *http.Client {
	ca, err := os.ReadFile(c.file("tls.crt"))
	if err != nil {
		c.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	return &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
}

func (c *Control) ask(client *http.Client, path string) error {
	r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, c.Server()+path, http.NoBody)
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer admintoken")
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, resp.Status)
	}
	return nil
}

// Server returns the address of the API server.
func (c *Control) Server() string { return "https://127.0.0.1:" + c.port }

// StopAPI stops the API server; its database goes on.
func (c *Control) StopAPI() { end(c.api) }

package egress

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/gvisor"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/rootfs"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/runc"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

// engines are the engines that egress is tested under.
var engines = map[string]func(t *testing.T, exe, dir string) (sandbox.Provider, error){
	"gvisor": func(t *testing.T, exe, dir string) (sandbox.Provider, error) {
		return gvisor.New(t.Context(), gvisor.Config{Exe: exe, Dir: dir})
	},
	"runc": func(t *testing.T, exe, dir string) (sandbox.Provider, error) {
		sandboxtest.Need(t, runc.Version() != "", "runc in the test program: run scripts/build.sh")
		return runc.New(t.Context(), runc.Config{Exe: exe, Dir: dir, UID: sandboxtest.UID, GID: sandboxtest.GID})
	},
}

func TestRealSandboxes(t *testing.T) {
	sandboxtest.Need(t, os.Geteuid() == 0, "root, to start sandboxes")
	exe := sandboxtest.Binary(t)
	for name, open := range engines {
		t.Run(name, func(t *testing.T) {
			root, err := rootfs.Host(t.TempDir(), sandboxtest.UID, sandboxtest.GID)
			if err != nil {
				t.Fatal(err)
			}
			p, err := open(t, exe, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := p.Close(context.WithoutCancel(t.Context())); err != nil {
					t.Error(err)
				}
			})
			t.Run("with egress", func(t *testing.T) { testEgress(t, p, root) })
			t.Run("without egress", func(t *testing.T) { testNoEgress(t, p, root) })
		})
	}
}

// inside is a sandbox in which the test runs programs.
type inside struct {
	t   *testing.T
	sb  sandbox.Sandbox
	env []string
}

func (i inside) sh(script string) string {
	i.t.Helper()
	var out bytes.Buffer
	ctx, cancel := context.WithTimeout(i.t.Context(), 2*time.Minute)
	defer cancel()
	p, err := i.sb.Start(ctx, sandbox.Command{
		Args: []string{"/bin/bash", "-c", script}, Env: append([]string{"PATH=/usr/bin:/bin", "HOME=/tmp"}, i.env...),
		UID: sandboxtest.UID, GID: sandboxtest.GID, Stdout: &out, Stderr: &out,
	})
	if err != nil {
		i.t.Fatal(err)
	}
	if exit, err := p.Wait(); err != nil {
		i.t.Fatalf("%s: %+v %v %s", script, exit, err, out.String())
	}
	return out.String()
}

// wants runs a script and checks its output for texts. A text after "!" must not
// occur.
func (i inside) wants(script string, texts ...string) {
	i.t.Helper()
	out := i.sh(script)
	for _, text := range texts {
		unwanted, not := strings.CutPrefix(text, "!")
		if not == strings.Contains(out, strings.TrimPrefix(text, "!")) || not && unwanted == "" {
			i.t.Errorf("%s:\n%s\nwant %q", script, out, text)
		}
	}
}

func testEgress(t *testing.T, p sandbox.Provider, root sandbox.Root) {
	ca := newCA(t)
	given := make(chan string, 100)
	secretPort := ca.upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		given <- r.Header.Get("X-Api-Key")
		_, _ = fmt.Fprintf(w, "you sent %s", r.Header.Get("X-Api-Key"))
	}), "secret.example.com")
	tunnelPort := ca.upstream(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprintf(w, "through the tunnel, %d bytes\n", n)
	}), apiHost)
	clear := plain(t, hello200)
	roots := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	secretHost, tunnelHost, plainHost := at("secret.example.com", secretPort), at(apiHost, tunnelPort), at("plain.example.com", clear)
	r := newRig(t, ca, options{
		private: []string{secretHost, tunnelHost, plainHost}, allow: []string{"rebind.example.com"}, inject: []string{secretHost + "=vendor:X-Api-Key"},
		config: func(c *Config) { c.CAFile = roots },
	})
	for _, name := range []string{apiHost, "secret.example.com", "plain.example.com", "rebind.example.com"} {
		r.names.set(name, "127.0.0.1")
	}
	sb, err := p.Create(t.Context(), sandbox.Spec{
		Root: root, Mounts: []sandbox.Mount{{Source: r.dir, Target: rootfs.GatewayDir}},
		Relay: sandbox.Relay{Port: Port, Socket: rootfs.GatewayDir + "/" + SocketName},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer sb.Close(context.WithoutCancel(t.Context()))
	in := inside{t, sb, r.sock.Environment(rootfs.GatewayDir)}
	in.wants("curl -sS https://"+tunnelHost+"/ 2>&1", "403") // no job yet
	s := r.sock.Begin("job-1", sb.ID())

	in.wants("curl -sS https://"+tunnelHost+"/", "through the tunnel, 0 bytes")
	in.wants("head -c 3000000 /dev/zero | curl -sS --data-binary @- https://"+tunnelHost+"/", "3000000 bytes")
	in.wants("curl -sS http://"+plainHost+"/", "hello from "+plainHost)
	in.wants("curl -sS -H 'X-Api-Key: mine' https://"+secretHost+"/ http://"+secretHost+"/", "you sent ***", "!canary", "!mine")
	for range 2 {
		if got := <-given; got != theSecret {
			t.Errorf("the host received %q", got)
		}
	}

	in.wants("curl -sS https://evil.example.com/ 2>&1", "403")
	in.wants("curl -sS https://rebind.example.com/ 2>&1", "403")
	in.wants("curl -sS http://169.254.169.254/latest/meta-data/", "not among")
	in.wants("curl -sS http://127.0.0.1:"+fmt.Sprint(clear)+"/ --noproxy '' ", "not among")
	// Name resolution, raw sockets and other networks must not work inside.
	in.wants("getent hosts "+apiHost+" secret.example.com; echo code $?", "code 2", "!127.0.0.1")
	in.wants("curl -sS --noproxy '*' https://"+tunnelHost+"/ 2>&1", "Could not resolve host")
	for _, to := range []string{fmt.Sprintf("tcp/127.0.0.1/%d", clear), "tcp/1.1.1.1/443", "udp/1.1.1.1/53", "tcp/169.254.169.254/80"} {
		in.wants("(exec 3<>/dev/"+to+" && echo x >&3 && echo sent) 2>&1", "!sent")
	}
	in.wants(`perl -MSocket -e 'print socket(S, PF_INET, SOCK_RAW, 1) ? "raw" : "refused: $!"; print socket(P, 17, SOCK_RAW, 768) ? "packet" : " refused: $!"'`, "!raw", "!packet")

	// A hundred requests at once; the relay survives the end of a job's programs.
	in.wants("seq 100 | xargs -P 100 -I{} curl -sS -o /dev/null -w '%{http_code}\\n' http://"+plainHost+"/ | sort | uniq -c", "100 200")
	if err := sb.EndAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	in.wants("curl -sS http://"+plainHost+"/", "hello from")

	// The secret must not be found anywhere inside.
	in.wants(`env | grep -c canary; cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\0' '\n' | grep -c canary
grep -rIl sk-canary /run /etc /tmp /home /data /.dreamcore 2>/dev/null; grep -c PRIVATE `+rootfs.GatewayDir+`/*.pem; echo searched`, "!sk-canary", "searched", "!1\n", "0\n")

	s.End()
	in.wants("curl -sS http://"+plainHost+"/", "no job")
	for _, a := range r.seen() {
		if strings.Contains(fmt.Sprint(a), "canary") || a.Sandbox != sb.ID() && a.Job != "" {
			t.Errorf("%+v", a)
		}
	}
}

// testNoEgress checks that without a rule there is no relay, port or variable.
func testNoEgress(t *testing.T, p sandbox.Provider, root sandbox.Root) {
	sb, err := p.Create(t.Context(), sandbox.Spec{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	defer sb.Close(context.WithoutCancel(t.Context()))
	in := inside{t: t, sb: sb}
	in.wants(fmt.Sprintf("(exec 3<>/dev/tcp/127.0.0.1/%d && echo open) 2>&1; ls -A %s", Port, rootfs.GatewayDir), "refused", "!open", "!sock")
	// Egress whose socket has vanished refuses, and the sandbox continues to run.
	dir := t.TempDir()
	sb2, err := p.Create(t.Context(), sandbox.Spec{
		Root: root, Mounts: []sandbox.Mount{{Source: dir, Target: rootfs.GatewayDir}},
		Relay: sandbox.Relay{Port: Port, Socket: rootfs.GatewayDir + "/" + SocketName},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer sb2.Close(context.WithoutCancel(t.Context()))
	in = inside{t: t, sb: sb2}
	in.wants(fmt.Sprintf("curl -sS http://127.0.0.1:%d/ 2>&1; echo alive", Port), "curl:", "alive")
}

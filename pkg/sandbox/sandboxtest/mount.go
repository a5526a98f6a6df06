package sandboxtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
)

// owned creates a directory of the host that belongs to the ordinary user.
func owned(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Chown(dir, UID, GID))
	return dir
}

// testMounts tests what a sandbox sees of the host.
func testMounts(t *testing.T, r *rig) {
	shared, fixed, inner := owned(t), owned(t), owned(t)
	write(t, filepath.Join(fixed, "text"), "of the host")
	must(t, os.MkdirAll(filepath.Join(shared, "deep/er"), 0o755))
	sb := r.create(t, r.spec(
		sandbox.Mount{Target: "/data", Size: 1 << 20},
		sandbox.Mount{Source: shared, Target: "/data/users/u/projects/p", Writable: true},
		sandbox.Mount{Source: inner, Target: "/data/users/u/projects/p/deep/er", Writable: true},
		sandbox.Mount{Source: fixed, Target: "/global"},
		sandbox.Mount{Target: "/home/agent", Writable: true, Size: 1 << 20, Mode: 0o1777},
	))
	const project = "/data/users/u/projects/p"

	t.Run("a writable mount is written through with the right owner", func(t *testing.T) {
		sh(t, sb, "cd "+project+" && echo hello >f && mkdir d && chmod 600 f && mv f d/g")
		name := filepath.Join(shared, "d/g")
		fi, err := os.Stat(name)
		must(t, err)
		st := fi.Sys().(*syscall.Stat_t)
		if st.Uid != UID || st.Gid != GID || fi.Mode().Perm() != 0o600 {
			t.Errorf("the host sees owner %d:%d, mode %v", st.Uid, st.Gid, fi.Mode())
		}
		reads(t, name, "hello\n")
	})
	t.Run("writes of the host are visible at once", func(t *testing.T) {
		for i := range 5 {
			want := fmt.Sprintf("round %d", i)
			write(t, filepath.Join(shared, "news"), want)
			prints(t, sb, "cat "+project+"/news", want)
		}
	})
	t.Run("a read-only mount cannot be written, not even by root", func(t *testing.T) {
		for _, uid := range []uint32{UID, 0} {
			got := runAs(t, sb, uid, "cat /global/text; cd /global && { touch new; echo x >>text; rm -f text; chmod 777 text; mv text t; mkdir d; ln -s a b; } 2>/dev/null; ls")
			if got != "of the hosttext\n" {
				t.Errorf("user %d: %q", uid, got)
			}
		}
		reads(t, filepath.Join(fixed, "text"), "of the host")
	})
	t.Run("a mount lies inside another", func(t *testing.T) {
		sh(t, sb, "echo inner >"+project+"/deep/er/f")
		reads(t, filepath.Join(inner, "f"), "inner\n")
		if _, err := os.Stat(filepath.Join(shared, "deep/er/f")); err == nil {
			t.Error("the outer mount was written to")
		}
	})
	t.Run("only the mounts can be seen and written", func(t *testing.T) {
		prints(t, sb, "touch /data/x /data/users/x 2>/dev/null; ls /data /data/users /data/users/u/projects",
			"/data:\nusers\n\n/data/users:\nu\n\n/data/users/u/projects:\np\n")
	})
	t.Run("a link to a file of the host is broken", func(t *testing.T) {
		target := filepath.Join(t.TempDir(), "secret")
		write(t, target, "x")
		if got := run(t, sb, script("ln -sf "+target+" "+project+"/l; cat "+project+"/l")); got.exit.Code == 0 {
			t.Errorf("it reads %q", got.out)
		}
	})
	t.Run("a file system in memory is bounded", func(t *testing.T) {
		got := run(t, sb, script("head -c 900000 /dev/zero >/home/agent/a && echo fits; head -c 900000 /dev/zero >/home/agent/b; stat -c %s /home/agent/b"))
		var size int
		if _, err := fmt.Sscanf(got.out, "fits\n%d", &size); err != nil || size > 200_000 || !strings.Contains(got.err, "No space left") {
			t.Errorf("output %q, errors %q", got.out, got.err)
		}
		prints(t, sb, "stat -c %a /home/agent", "1777\n")
	})
	t.Run("a socket in a mount can be connected to", func(t *testing.T) { testSocket(t, sb, shared, project) })
}

// testSocket tests the only connection to the outside: a Unix socket that the host
// has put into a mount, also after the start of the sandbox.
func testSocket(t *testing.T, sb sandbox.Sandbox, dir, inside string) {
	for range 2 { // the second is a restart of the server
		l, err := net.Listen("unix", filepath.Join(dir, "sock"))
		must(t, err)
		must(t, os.Chmod(filepath.Join(dir, "sock"), 0o666))
		served := make(chan struct{})
		go func() {
			defer close(served)
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			_, _ = c.Write([]byte("from the host\n"))
		}()
		prints(t, sb, `perl -MSocket -e 'socket(S,AF_UNIX,SOCK_STREAM,0) or die; connect(S,pack_sockaddr_un("`+inside+`/sock")) or die "connect: $!"; print <S>'`, "from the host\n")
		_ = l.Close()
		await(t, served, "the server")
	}
}

// testFailedCreate tests sandboxes that cannot be created.
func testFailedCreate(t *testing.T, r *rig) {
	missing := filepath.Join(t.TempDir(), "not-there")
	tests := map[string]struct {
		spec sandbox.Spec
		want string // in the error
	}{
		"mount source that is not there": {r.spec(sandbox.Mount{Source: missing, Target: "/global"}), missing},
		"relative mount source":          {r.spec(sandbox.Mount{Source: "etc", Target: "/global"}), `"etc"`},
		"mount target outside":           {r.spec(sandbox.Mount{Source: "/etc", Target: "/global/../.."}), "/global/../.."},
		"mount over everything":          {r.spec(sandbox.Mount{Source: "/etc", Target: "/"}), `"/"`},
		"size of a bind mount":           {r.spec(sandbox.Mount{Source: "/etc", Target: "/global", Size: 1}), "/global"},
		"negative size":                  {r.spec(sandbox.Mount{Target: "/global", Size: -1}), "/global"},
		"negative limit":                 {sandbox.Spec{Root: r.root, Limits: sandbox.Limits{MemoryBytes: -1}}, "limits"},
		"no root":                        {sandbox.Spec{}, "root"},
		"root that is not there":         {sandbox.Spec{Root: sandbox.Root{Path: missing}}, missing},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			before := r.take()
			sb, err := r.provider.Create(bounded(t), test.spec)
			if err == nil {
				t.Errorf("it was created; Close: %v", sb.Close(bounded(t)))
			} else if !strings.Contains(err.Error(), test.want) {
				t.Errorf("Create: %v", err)
			}
			before.check(t)
		})
	}
	t.Run("context that has ended", func(t *testing.T) {
		before := r.take()
		if _, err := r.provider.Create(ended(t), r.spec()); !errors.Is(err, context.Canceled) {
			t.Errorf("Create: %v", err)
		}
		before.check(t)
	})
}

package gvisor_test

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/rootfs"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/gvisor"
	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

func TestFirst(t *testing.T) {
	exe := sandboxtest.Binary(t)
	ctx := context.Background()
	root, err := rootfs.Host(t.TempDir(), 10000, 10000)
	if err != nil {
		t.Fatal(err)
	}
	p, err := gvisor.New(ctx, gvisor.Config{Exe: exe, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Close(ctx); err != nil {
			t.Error(err)
		}
	}()
	for i := range 5 {
		t0 := time.Now()
		proj := t.TempDir()
		os.Chown(proj, 10000, 10000)
		sb, err := p.Create(ctx, sandbox.Spec{Root: root, Mounts: []sandbox.Mount{{Source: proj, Target: "/data/users/u/projects/p", Writable: true}}})
		if err != nil {
			t.Fatal(err)
		}
		t1 := time.Now()
		run := func(cmd string) {
			var out, errb bytes.Buffer
			pr, err := sb.Start(ctx, sandbox.Command{Args: []string{"/bin/sh", "-c", cmd}, Env: []string{"PATH=/bin:/usr/bin"}, UID: 10000, GID: 10000, Stdin: strings.NewReader("hello"), Stdout: &out, Stderr: &errb})
			if err != nil {
				t.Fatal(err)
			}
			e, err := pr.Wait()
			if i == 0 {
				t.Log(cmd, e, err, out.String(), errb.String())
			}
		}
		run("cat")
		t2 := time.Now()
		run("true")
		t3 := time.Now()
		if i == 0 {
			run("id; cat /proc/version; mount; ls -la / /data /data/users/u/projects /data/users/u/projects/p /.dreamcore; ps aux; echo hi > /data/users/u/projects/p/f; touch /x; touch /data/x; ls -la /proc/1/fd; cat /proc/1/environ; dmesg | head -3; ls -la /etc; node --version; exit 3")
		}
		t4 := time.Now()
		if err := sb.Close(ctx); err != nil {
			t.Fatal(err)
		}
		t.Log("create", t1.Sub(t0), "cat", t2.Sub(t1), "true", t3.Sub(t2), "close", time.Since(t4))
	}
}

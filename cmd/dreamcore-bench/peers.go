package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const firstOutput = "first output\n"

// peer is a way to run a small program in a new sandbox. once runs it from start to
// end; id is new each time.
type peer struct {
	name string
	need string // a program of this machine
	once func(ctx context.Context, id string) error
}

// echo returns the run of a command that prints firstOutput.
func echo(command func(ctx context.Context, id string) *exec.Cmd) func(context.Context, string) error {
	return func(ctx context.Context, id string) error {
		out, err := command(ctx, id).CombinedOutput()
		if err != nil || string(out) != firstOutput {
			return fmt.Errorf("%v: %s", err, bytes.TrimSpace(out[:min(len(out), 400)]))
		}
		return nil
	}
}

func (p peer) timed(ctx context.Context, id string) (float64, error) {
	begin := time.Now()
	if err := p.once(ctx, id); err != nil {
		return 0, fmt.Errorf("%s: %w", p.name, err)
	}
	return millis(begin), nil
}

func millis(since time.Time) float64 { return float64(time.Since(since).Microseconds()) / 1000 }

// sandboxes starts a sandbox of each kind in turn, then many of each at once.
func (b *bench) sandboxes(ctx context.Context) (err error) {
	s, err := b.serve(ctx, "sandboxes", "model_script: demo\n")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	bundle, err := b.bundle()
	if err != nil {
		return err
	}
	socket, stop, err := b.containerd(ctx)
	if err != nil {
		b.skip("containerd with runc", err)
	}
	if stop != nil {
		defer func() { err = errors.Join(err, stop()) }()
	}
	peers := b.usable(ctx, append(b.peers(bundle, socket), peer{"dreamcore, POST /test_sandbox_io", b.binary, func(ctx context.Context, _ string) error { return s.sandboxIO(ctx) }}))
	took := make([][]float64, len(peers))
	for round := range b.rounds {
		for i := range peers {
			if round%2 == 1 {
				i = len(peers) - 1 - i // so that none always follows the same one
			}
			ms, err := peers[i].timed(ctx, fmt.Sprintf("bench-%d-%06d", i, round))
			if err != nil {
				return err
			}
			took[i] = append(took[i], ms)
		}
	}
	for i, p := range peers {
		b.report.add("first output, in turn", p.name, "ms", took[i], took[0], "")
	}
	for i, p := range peers {
		each, total, failed := b.together(ctx, i, p)
		b.report.add(fmt.Sprintf("first output, %d at once", b.burst), p.name, "ms", each, nil, fmt.Sprintf("all in %.0f ms, %d failed", total, failed))
	}
	return nil
}

// together starts b.burst sandboxes at once.
func (b *bench) together(ctx context.Context, i int, p peer) (each []float64, total float64, failed int) {
	each = make([]float64, b.burst)
	errs := make([]error, b.burst)
	begin := time.Now()
	var wg sync.WaitGroup
	for k := range b.burst {
		wg.Go(func() {
			start := time.Now()
			errs[k] = p.once(ctx, fmt.Sprintf("burst-%d-%06d", i, k))
			each[k] = millis(start)
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			failed++
			fmt.Fprintln(os.Stderr, err)
		}
	}
	return each, millis(begin), failed
}

// usable leaves out the peers that this machine does not have or that fail.
func (b *bench) usable(ctx context.Context, peers []peer) []peer {
	return slices.DeleteFunc(peers, func(p peer) bool {
		if _, err := exec.LookPath(p.need); err != nil {
			b.skip(p.name, err)
			return true
		}
		if err := p.once(ctx, "try-"+filepath.Base(p.need)); err != nil {
			b.skip(p.name, err)
			return true
		}
		return false
	})
}

func (b *bench) peers(bundle, socket string) []peer {
	state := filepath.Join(b.dir, "peers")
	oci := func(program string) func(context.Context, string) error {
		return echo(func(ctx context.Context, id string) *exec.Cmd {
			return exec.CommandContext(ctx, program, "--root", filepath.Join(state, program), "run", "--bundle", bundle, id)
		})
	}
	peers := []peer{
		{"a process", "echo", echo(func(ctx context.Context, _ string) *exec.Cmd {
			return exec.CommandContext(ctx, "/bin/echo", "first output")
		})},
		{"bubblewrap", "bwrap", echo(func(ctx context.Context, _ string) *exec.Cmd {
			return exec.CommandContext(ctx, "bwrap", "--unshare-all", "--ro-bind", "/usr", "/usr",
				"--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64",
				"--proc", "/proc", "--dev", "/dev", "/bin/echo", "first output")
		})},
		{"crun", "crun", oci("crun")},
		{"runc", "runc", oci("runc")},
		{"runsc (gVisor alone)", b.binary, echo(b.runsc(bundle, state))},
	}
	if socket != "" {
		peers = append(peers, peer{"containerd with runc", "ctr", func(ctx context.Context, id string) error {
			// ctr ends now and then before it has copied the output.
			out, err := exec.CommandContext(ctx, "ctr", "-a", socket, "run", "--rm", "--rootfs",
				"--mount", "type=bind,src=/usr,dst=/usr,options=rbind:ro", filepath.Join(bundle, "rootfs"), id,
				"/bin/echo", "first output").CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
			}
			return nil
		}})
	}
	return peers
}

// runsc runs gVisor as dreamcore does, without dreamcore.
func (b *bench) runsc(bundle, state string) func(context.Context, string) *exec.Cmd {
	return func(ctx context.Context, id string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, b.binary, "runsc", "--root="+filepath.Join(state, "runsc"), "--platform=systrap",
			"--network=none", "--host-uds=open", "--overlay2=none", "--ignore-cgroups", "--sidecar-usage-policy=STRICT",
			"--host-settings=ignore", "run", "--bundle", bundle, id)
		cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "GVISOR_SIDECAR_BINARIES_DIR=" + filepath.Join(b.dir, "sidecar")}
		return cmd
	}
}

// bundle writes an OCI bundle whose root has the programs of this machine.
func (b *bench) bundle() (string, error) {
	dir := filepath.Join(b.dir, "bundle")
	root := filepath.Join(dir, "rootfs")
	var errs []error
	for _, name := range []string{"usr", "proc", "dev", "tmp"} {
		errs = append(errs, os.MkdirAll(filepath.Join(root, name), 0o755))
	}
	for _, name := range []string{"bin", "lib", "lib64"} {
		errs = append(errs, os.Symlink("usr/"+name, filepath.Join(root, name)))
	}
	errs = append(errs, os.Mkdir(filepath.Join(b.dir, "sidecar"), 0o755))
	for _, name := range []string{"gvisor_sentry", "gvisor-sentry-prewarmer"} {
		errs = append(errs, os.Symlink("/proc/self/exe", filepath.Join(b.dir, "sidecar", name)))
	}
	var namespaces []map[string]string
	for _, kind := range []string{"pid", "ipc", "uts", "mount", "network"} {
		namespaces = append(namespaces, map[string]string{"type": kind})
	}
	raw, err := json.Marshal(map[string]any{
		"ociVersion": "1.0.2", "hostname": "sandbox",
		"root": map[string]any{"path": "rootfs", "readonly": true},
		"process": map[string]any{
			"args": []string{"/bin/echo", "first output"}, "cwd": "/", "env": []string{"PATH=/bin"},
			"user": map[string]int{"uid": 0, "gid": 0}, "noNewPrivileges": true,
		},
		"mounts": []map[string]any{
			{"destination": "/proc", "type": "proc", "source": "proc"},
			{"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
			{"destination": "/usr", "type": "bind", "source": "/usr", "options": []string{"rbind", "ro"}},
		},
		"linux": map[string]any{"namespaces": namespaces},
	})
	errs = append(errs, err, os.WriteFile(filepath.Join(dir, "config.json"), raw, 0o644))
	return dir, errors.Join(errs...)
}

// containerd starts a daemon of its own. stop is nil if it could not be started.
func (b *bench) containerd(ctx context.Context) (socket string, stop func() error, err error) {
	if _, err := exec.LookPath("containerd"); err != nil {
		return "", nil, err
	}
	dir := filepath.Join(b.dir, "containerd")
	socket = filepath.Join(dir, "containerd.sock")
	if err := os.Mkdir(dir, 0o711); err != nil {
		return "", nil, err
	}
	config := filepath.Join(dir, "config.toml")
	text := fmt.Sprintf("version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\nroot = %q\nstate = %q\n", dir+"/root", dir+"/state")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return "", nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return "", nil, err
	}
	defer log.Close() // the daemon has its own descriptor
	cmd := exec.Command("containerd", "--config", config, "--address", socket)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() error { return end(cmd) }
	for range 100 {
		if err := exec.CommandContext(ctx, "ctr", "-a", socket, "version").Run(); err == nil {
			return socket, stop, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	raw, _ := os.ReadFile(log.Name())
	return "", stop, fmt.Errorf("the daemon does not answer: %s", lastLine(raw))
}

// end ends a daemon that this program started.
func end(cmd *exec.Cmd) error {
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	slow := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
	defer slow.Stop()
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return err
	}
	return nil
}

func lastLine(raw []byte) string {
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return lines[len(lines)-1]
}

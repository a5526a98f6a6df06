package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
	"github.com/notef-neighbor/dreamcore/pkg/store/volume"
	"github.com/notef-neighbor/dreamcore/pkg/work/agent"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testVersion = "1.2.3"

// machine is a machine in a directory: files are real, commands are simulated.
type machine struct {
	t    *testing.T
	root string
	opts Options

	ran      []string          // commands that changed something
	envs     map[string]string // environment of each command, joined
	stdin    map[string]string
	fail     map[string]*CommandError // by prefix of a command
	credsBad bool                     // systemd-creds cannot encrypt
	noCreds  bool                     // there is no systemd-creds
	takenID  bool                     // sysusers assigns another id

	loaded, enabled, active bool
	sub                     string // substate while active is false
	bound                   string // the socket unit when its sockets were opened; "" if they are not open
	app, version            string // of /health
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{
		t: t, root: t.TempDir(), app: "dreamcore", version: testVersion,
		envs: map[string]string{}, stdin: map[string]string{}, fail: map[string]*CommandError{},
	}
	t.Setenv("PATH", t.TempDir()) // no agent of this machine
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !m.active || r.URL.Path != "/health" {
			http.NotFound(w, r)
			return
		}
		_, _ = fmt.Fprintf(w, `{"status":"healthy","app":%q,"version":%q}`, m.app, m.version)
	}))
	t.Cleanup(srv.Close)
	m.write("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
	m.write("/etc/group", "root:x:0:\n")
	m.mkdir("/run/systemd/system")
	exe := filepath.Join(t.TempDir(), "dreamcore")
	if err := os.WriteFile(exe, []byte("\x7fELF program one"), 0o700); err != nil {
		t.Fatal(err)
	}
	m.opts = Options{
		Root: m.root, Exe: exe, Version: testVersion, Credential: "dreamcore-identity", FreeIDs: true,
		Settings: Settings{
			State: "/var/lib/dreamcore", Listen: srv.Listener.Addr().String(), UID: 10000, GID: 10000,
			ModelScript: "demo", Grace: 30 * time.Second,
		},
		Environ: []string{"PATH=/bin", "DREAMCORE_STATE=/elsewhere", "MODAL_ENDPOINT=x", "CREDENTIALS_DIRECTORY=/x", "HTTPS_PROXY=p"},
		Runner:  m.run,
	}
	return m
}

func (m *machine) host(path string) string { return filepath.Join(m.root, path) }

func (m *machine) mkdir(path string) {
	m.t.Helper()
	if err := os.MkdirAll(m.host(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) write(path, content string) {
	m.t.Helper()
	m.mkdir(filepath.Dir(path))
	if err := os.WriteFile(m.host(path), []byte(content), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) read(path string) string {
	m.t.Helper()
	raw, err := os.ReadFile(m.host(path))
	if err != nil {
		m.t.Fatal(err)
	}
	return string(raw)
}

// plan returns a plan that runs commands in spite of its root.
func (m *machine) plan() (*Plan, error) { return newPlan(context.Background(), m.opts, false) }

func (m *machine) mustPlan() *Plan {
	m.t.Helper()
	p, err := m.plan()
	if err != nil {
		m.t.Fatal(err)
	}
	return p
}

func (m *machine) deploy() ([]Step, error) {
	m.t.Helper()
	return m.mustPlan().Run(context.Background(), begin, finish)
}

func (m *machine) mustDeploy() []Step {
	m.t.Helper()
	steps, err := m.deploy()
	if err != nil {
		m.t.Fatal(err)
	}
	return steps
}

// begin and finish are the functions of a run without a view.
func begin(string) {}
func finish(Step)  {}

// done returns the names of the steps that changed something.
func done(steps []Step) []string {
	var names []string
	for _, s := range steps {
		if s.Status != Unchanged {
			names = append(names, s.Name)
		}
	}
	return names
}

// run simulates the commands of a machine with systemd.
func (m *machine) run(ctx context.Context, c Command) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	line := c.String()
	var in []byte
	if c.Stdin != nil {
		in, _ = io.ReadAll(c.Stdin)
	}
	m.envs[line], m.stdin[line] = strings.Join(c.Env, "\n"), string(in)
	for prefix, err := range m.fail {
		if strings.HasPrefix(line, prefix) {
			m.ran = append(m.ran, line)
			err.Command = line
			return nil, err
		}
	}
	out, reads, err := m.play(c, line, in)
	if !reads {
		m.ran = append(m.ran, line)
	}
	return out, err
}

func (m *machine) play(c Command, line string, in []byte) (out []byte, reads bool, err error) {
	switch {
	case strings.HasPrefix(line, "systemctl show"):
		return m.show(c.Args[2]), true, nil
	case line == "systemctl daemon-reload":
		m.loaded = true
	case line == "systemctl enable dreamcore.socket dreamcore.service":
		m.enabled = true
	case line == "systemctl stop dreamcore.socket dreamcore.service":
		m.active, m.bound = false, ""
	case line == "systemctl restart dreamcore.service":
		if m.bound == "" {
			if m.active {
				m.t.Error("the sockets cannot be opened: the service has opened its own")
			}
			m.bound = m.read(SocketFile)
		}
		m.active = m.sub == ""
	case strings.HasPrefix(line, "systemctl reset-failed"):
	case strings.HasPrefix(line, "systemd-sysusers"):
		m.sysusers()
	case line == "systemd-creds --version":
		if m.noCreds {
			return nil, true, &CommandError{Command: line, Err: fs.ErrNotExist}
		}
		return nil, true, nil
	case strings.HasPrefix(line, "systemd-creds encrypt"):
		if m.credsBad {
			return nil, false, &CommandError{Command: line, Stderr: "no key\nmore", Err: errors.New("exit 1")}
		}
		return scramble(in), false, nil
	case strings.HasPrefix(line, "systemd-creds decrypt"):
		raw, err := os.ReadFile(c.Args[len(c.Args)-2])
		if err != nil || !bytes.HasPrefix(raw, scramble(nil)) {
			return nil, true, &CommandError{Command: line, Stderr: "not of this machine", Err: errors.New("exit 1")}
		}
		return scramble(raw)[len(scramble(nil)):][len(scramble(nil)):], true, nil
	case strings.HasPrefix(line, "journalctl"):
		return []byte("the cause in the log\n"), true, nil
	case strings.HasPrefix(line, ProgramFile+" setup"):
		return []byte(`{"steps":[{"name":"a","status":"created"},{"name":"b","status":"exists"}]}`), false, m.setup(c)
	case strings.HasPrefix(line, ProgramFile+" secret show"):
		return []byte("the-secret\n"), true, nil
	default:
		m.t.Errorf("unexpected command: %s", line)
	}
	return nil, false, nil
}

// scramble stands for encryption: its result does not show the identity. Applied
// to the bytes after its mark, it decrypts them.
func scramble(b []byte) []byte {
	out := []byte("SEALED")
	for _, c := range b {
		out = append(out, c^0x55)
	}
	return out
}

func (m *machine) show(unit string) []byte {
	load, file, active, sub := "not-found", "", "inactive", "dead"
	if m.loaded {
		load, file = "loaded", "disabled"
	}
	if m.enabled {
		file = "enabled"
	}
	switch {
	case unit == SocketName:
		if m.bound != "" {
			active, sub = "active", "listening"
		}
	case m.active:
		active, sub = "active", "running"
	case m.sub != "":
		active, sub = "activating", m.sub
	}
	return fmt.Appendf(nil, "LoadState=%s\nUnitFileState=%s\nActiveState=%s\nSubState=%s\nNeedDaemonReload=no\nResult=exit-code\n", load, file, active, sub)
}

func (m *machine) sysusers() {
	for line := range strings.Lines(m.read(AccountFile)) {
		f := strings.Fields(line)
		if len(f) < 3 || f[0] != "u" {
			continue
		}
		id := strings.Replace(f[2], "'", "", 1)
		if m.takenID {
			id = "998:998"
		}
		m.write("/etc/passwd", m.read("/etc/passwd")+f[1]+":x:"+id+"::/:/usr/sbin/nologin\n")
	}
}

// setup simulates our own setup: it opens the identity and creates the files
// that check looks for.
func (m *machine) setup(c Command) error {
	var dir string
	for _, kv := range c.Env {
		if v, ok := strings.CutPrefix(kv, credentialsVar+"="); ok {
			dir = v
		}
	}
	raw, err := os.ReadFile(filepath.Join(dir, m.opts.Credential))
	if err != nil || recipients(raw) == nil {
		m.t.Errorf("setup has no identity in %q: %v", dir, err)
	}
	state := m.opts.Settings.State
	m.write(state+"/secrets/"+secret.InternalSecret+".age", "sealed")
	if m.opts.KeyFile != "" || m.opts.Key != "" {
		m.write(state+"/secrets/"+secret.AnthropicSecret+".age", "sealed")
	}
	m.mkdir(state + "/volumes/" + volume.Data)
	m.mkdir(state + "/volumes/" + volume.Global)
	m.mkdir(state + "/agent")
	path := "/proc/self/exe" // a file of the real machine that the unit does not hide
	if i := slices.Index(c.Args, "--claude"); i >= 0 {
		path = c.Args[i+1]
	}
	bin := agent.Binary{Path: path, Proven: time.Unix(1, 0)}
	if fi, err := os.Stat(path); err == nil {
		bin.Size, bin.Modified = fi.Size(), fi.ModTime()
	}
	return agent.Record(m.host(state+"/agent"), bin)
}

// tree returns every file below the root with its mode, content and target.
func (m *machine) tree() map[string]string {
	m.t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(m.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == m.root {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		content := ""
		switch {
		case fi.Mode()&fs.ModeSymlink != 0:
			content, err = os.Readlink(path)
		case fi.Mode().IsRegular():
			var raw []byte
			raw, err = os.ReadFile(path)
			content = string(raw)
		}
		all[strings.TrimPrefix(path, m.root)] = fmt.Sprintf("%v %v %s", fi.Mode(), fi.ModTime().UnixNano(), content)
		return err
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return all
}

// freePort returns an address on which no process listens.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// contextUntil returns a context that ends with reason once the file exists. The
// returned function waits for the goroutine that watches it.
func contextUntil(t *testing.T, file string, reason error) (context.Context, func()) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if _, err := os.Stat(file); err == nil {
					cancel(reason)
				}
			}
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-done
	}
}

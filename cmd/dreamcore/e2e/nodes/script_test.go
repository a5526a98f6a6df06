package nodes

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/sandbox/sandboxtest"
)

// callScript runs a function of scripts/cluster/nodes.sh.
func callScript(t *testing.T, run string, function ...string) {
	t.Helper()
	cmd := exec.Command("bash", append([]string{"../../../../scripts/cluster/nodes.sh", "_run", run, "control"}, function...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", function, err, out)
	}
}

// The process whose number is in the file of a cluster may have ended, and its number may
// be another process's.
func TestOnlyProcessesOfTheClusterAreEnded(t *testing.T) {
	run := t.TempDir()
	if err := os.Mkdir(filepath.Join(run, "control"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		argument string
		ends     bool
	}{{run, true}, {run + "2", false}, {"", false}} {
		// It ends when its standard input does.
		cmd := exec.Command("bash", "-c", "echo; read -r line; exit 3", "sh", tt.argument)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		_, started := out.Read(make([]byte, 1))
		if err := os.WriteFile(filepath.Join(run, "control", "pid"), []byte(strconv.Itoa(cmd.Process.Pid)+"\n"), 0o644); err != nil || started != nil {
			t.Errorf("%v, %v", err, started)
		}
		callScript(t, run+"/", "stop", "control")
		in.Close()
		_ = cmd.Wait()
		if ended := cmd.ProcessState.ExitCode() != 3; ended != tt.ends {
			t.Errorf("a process with the argument %q: ended is %v", tt.argument, ended)
		}
	}
}

func TestKeysOfTheClusterAreSecret(t *testing.T) {
	_, err := exec.LookPath("openssl")
	sandboxtest.Need(t, err == nil, "openssl")
	run := t.TempDir()
	callScript(t, run, "keys")
	all, err := os.ReadDir(run)
	if err != nil || len(all) < 9 {
		t.Fatalf("%v, %v", all, err)
	}
	for _, f := range all {
		if info, err := f.Info(); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v", f.Name(), info.Mode(), err)
		}
	}
}

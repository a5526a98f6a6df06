package config

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func TestMain(m *testing.M) {
	if os.Getenv("DREAMCORE_TEST_WIPE") != "" {
		environ, err := Environ()
		if err != nil {
			panic(err)
		}
		shown, err := os.ReadFile("/proc/self/environ")
		if err != nil {
			panic(err)
		}
		child, err := exec.Command("env").Output()
		if err != nil {
			panic(err)
		}
		e, again := ReadEnvironment(environ), ReadEnvironment(os.Environ())
		os.Stdout.WriteString(strings.Join([]string{
			e.APIKey, e.InternalSecret, e.Identity, again.APIKey, again.InternalSecret, again.Identity,
			strings.Join(WithoutSecrets(environ), ","), string(shown), string(child),
		}, "\n--\n"))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestEnvironBlockIsWiped(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{
		"FIRST=1", "ANTHROPIC_API_KEY=sk-canary", "DREAMCORE_TEST_WIPE=1", "MODAL_INTERNAL_SECRET=canary = internal",
		"DREAMCORE_IDENTITY=# a comment\nAGE-SECRET-canary\n", "NOT_ANTHROPIC_API_KEY=kept", "PATH=" + os.Getenv("PATH"), "LAST=1",
	}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(string(out), "\n--\n")
	if want := []string{"sk-canary", "canary = internal", "# a comment\nAGE-SECRET-canary", "", "", ""}; !slices.Equal(got[:6], want) {
		t.Errorf("read: %q", got[:6])
	}
	for i, what := range []string{"WithoutSecrets", "/proc/self/environ", "a child"} {
		text := got[6+i]
		if strings.Contains(text, "canary") || strings.Contains(text, "comment") {
			t.Errorf("%s shows a secret: %q", what, text)
		}
		for _, keep := range []string{"FIRST=1", "DREAMCORE_TEST_WIPE=1", "NOT_ANTHROPIC_API_KEY=kept", "LAST=1"} {
			if !strings.Contains(text, keep) {
				t.Errorf("%s lacks %s: %q", what, keep, text)
			}
		}
	}
}

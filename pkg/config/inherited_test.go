package config

import (
	"os"
	"testing"
)

func TestDescriptorsOfAnotherProcessAreNotInherited(t *testing.T) {
	for _, name := range []string{"LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID"} {
		t.Setenv(name, "1") // process 1 is not this test
	}
	if files := InheritedFiles(); files != nil {
		t.Errorf("%v", files)
	}
	for _, name := range []string{"LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID"} {
		if value, ok := os.LookupEnv(name); ok {
			t.Errorf("children would get %s=%s", name, value)
		}
	}
}

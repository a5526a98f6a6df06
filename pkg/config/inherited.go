package config

import (
	"os"

	"github.com/coreos/go-systemd/v22/activation"
)

// InheritedFiles returns the descriptors that the parent process has passed with the
// variables LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES: sd_listen_fds(3). It keeps
// them and the variables from children, so it must be called before the first child
// is started. Variables for another process are ignored.
func InheritedFiles() []*os.File { return activation.Files(true) }

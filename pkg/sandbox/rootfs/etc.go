package rootfs

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/notef-neighbor/dreamcore/pkg/system/statefile"
)

// etcFiles returns the files that programs commonly expect in /etc, with the
// agent as user uid and group gid. Nothing in them comes from the host.
func etcFiles(uid, gid uint32) map[string]string {
	return map[string]string{
		"passwd": fmt.Sprintf("root:x:0:0:root:/root:/bin/sh\nagent:x:%d:%d:agent:%s:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
			uid, gid, HomeDir),
		"group":         fmt.Sprintf("root:x:0:\nagent:x:%d:\nnogroup:x:65534:\n", gid),
		"hosts":         "127.0.0.1 localhost sandbox\n::1 localhost\n",
		"hostname":      "sandbox\n",
		"nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
		"resolv.conf":   "",
		"profile":       "export PATH=/usr/local/bin:/usr/bin:/bin\n",
		"os-release":    "NAME=dreamcore\nID=dreamcore\nPRETTY_NAME=\"dreamcore sandbox\"\n",
	}
}

// loaderFiles are the host's files that list library paths for the dynamic
// loader. They contain nothing else.
var loaderFiles = []string{"ld.so.cache"}

func writeEtc(dir string, uid, gid uint32) error {
	if err := mkdir(filepath.Dir(dir), filepath.Base(dir)); err != nil {
		return fmt.Errorf("create /etc of the sandbox: %w", err)
	}
	files := map[string][]byte{}
	for name, text := range etcFiles(uid, gid) {
		files[name] = []byte(text)
	}
	for _, name := range loaderFiles {
		if b, err := os.ReadFile(filepath.Join("/etc", name)); err == nil {
			files[name] = b
		}
	}
	for name, b := range files {
		if err := writeFile(filepath.Join(dir, name), b); err != nil {
			return fmt.Errorf("create /etc of the sandbox: %w", err)
		}
	}
	return nil
}

// writeFile replaces a file atomically: a running sandbox reads either the old
// or the new text.
func writeFile(name string, b []byte) error {
	return statefile.ReplaceCacheFile(name, 0o644, statefile.Bytes(b))
}

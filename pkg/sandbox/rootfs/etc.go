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
	browser := Browser(uid, gid)
	return map[string]string{
		"passwd": fmt.Sprintf("root:x:0:0:root:/root:/bin/sh\nagent:x:%d:%d:agent:%s:/bin/bash\nbrowser:x:%d:%d:browser:/tmp:/bin/false\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
			uid, gid, HomeDir, browser.UID, browser.GID),
		"group":         fmt.Sprintf("root:x:0:\nagent:x:%d:\nbrowser:x:%d:\nnogroup:x:65534:\n", gid, browser.GID),
		"hosts":         "127.0.0.1 localhost sandbox\n::1 localhost\n",
		"hostname":      "sandbox\n",
		"nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
		"resolv.conf":   "",
		"profile":       "export PATH=/usr/local/bin:/usr/bin:/bin\n",
		"os-release":    "NAME=dreamcore\nID=dreamcore\nPRETTY_NAME=\"dreamcore sandbox\"\n",
	}
}

// writeEtc creates /etc in a root. Each file is replaced atomically: a running
// sandbox reads either the old or the new text.
func writeEtc(root string, uid, gid uint32) error {
	if err := mkdir(root, "etc"); err != nil {
		return err
	}
	files := etcFiles(uid, gid)
	// This file of the host lists library paths for the dynamic loader and
	// contains nothing else.
	if b, err := os.ReadFile("/etc/ld.so.cache"); err == nil {
		files["ld.so.cache"] = string(b)
	}
	for name, text := range files {
		if err := statefile.ReplaceCacheFile(filepath.Join(root, "etc", name), 0o644, statefile.Bytes([]byte(text))); err != nil {
			return err
		}
	}
	return nil
}

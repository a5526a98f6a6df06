package deploy

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
)

// configuration returns the content of a new configuration file.
func (p *Plan) configuration() []byte {
	if p.o.Config != nil {
		return p.o.Config
	}
	s := p.o.Settings
	var b bytes.Buffer
	b.WriteString("# Settings of the dreamcore service. After a change: systemctl restart dreamcore; of an address: dreamcore deploy\n")
	fmt.Fprintf(&b, "state: %q\nlisten: %q\nsandbox_uid: %d\nsandbox_gid: %d\n", s.State, s.Listen, s.UID, s.GID)
	for _, v := range []struct{ key, value string }{
		{"upstream", s.Upstream}, {"model_script", s.ModelScript}, {"rootfs", s.Rootfs}, {"image", s.Image}, {"runtime", s.Runtime},
	} {
		if v.value != "" {
			fmt.Fprintf(&b, "%s: %q\n", v.key, v.value)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(s.More)) {
		fmt.Fprintf(&b, "%s: %q\n", key, s.More[key])
	}
	return b.Bytes()
}

// effective returns the content of the installed configuration, or of the one to be installed.
func (p *Plan) effective() ([]byte, error) {
	raw, err := p.readFile(ConfigFile)
	if errors.Is(err, fs.ErrNotExist) {
		return p.configuration(), nil
	}
	return raw, err
}

// existingConfig returns the path of the configuration that an installation
// would keep, or "" if there is no configuration. adopt reports that it is the
// one of the state directory, whose content would move to ConfigFile.
func existingConfig(root, state string) (path string, adopt bool, err error) {
	p := &Plan{o: Options{Root: root}}
	for _, path := range []string{ConfigFile, filepath.Join(state, "config.yaml")} {
		host, fi, err := p.lstat(path)
		if err != nil {
			return "", false, err
		}
		if fi != nil && fi.Mode().IsRegular() {
			return host, path != ConfigFile, nil
		}
	}
	return "", false, nil
}

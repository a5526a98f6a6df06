package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/config"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
	"github.com/notef-neighbor/dreamcore/pkg/system/term"
)

func TestAGateThatCannotStartWritesItsReports(t *testing.T) {
	for name, tt := range map[string]struct {
		environ []string
		args    []string
		want    string
	}{
		"no secret":              {nil, []string{"--endpoint", "http://127.0.0.1:1"}, "there is no internal secret to send"},
		"an empty secret file":   {nil, []string{"--endpoint", "http://127.0.0.1:1", "--secret-file", "/dev/null"}, "the secret file contains no secret"},
		"a bad endpoint":         {[]string{"MODAL_ENDPOINT=::", "MODAL_INTERNAL_SECRET=s"}, nil, "cannot be used"},
		"a password":             {[]string{"MODAL_INTERNAL_SECRET=s"}, []string{"--endpoint", "http://u:hunter2@host"}, "must not hold a user or a password"},
		"neither true nor false": {[]string{"ALLOW_NON_GVISOR=perhaps", "MODAL_INTERNAL_SECRET=s"}, []string{"--endpoint", "http://127.0.0.1:1"}, "ALLOW_NON_GVISOR"},
		"a setting":              {[]string{"DREAMCORE_TIMEOUT=7"}, nil, "timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			io, out, _ := term.Buffers("")
			environ := append([]string{"HOME=" + dir}, tt.environ...)
			a := &app{io: io, environ: environ, env: config.ReadEnvironment(environ), redactor: &secret.Redactor{}, flags: map[string]any{}}
			junit := filepath.Join(dir, "gates.xml")
			root := newRootCmd(a)
			root.SetArgs(append([]string{"--state", filepath.Join(dir, "state"), "--json", "gate", "gvisor", "stream", "--junit", junit}, tt.args...))
			if err := root.ExecuteContext(t.Context()); dreamcore.CodeOf(err) != dreamcore.CodeInvalid {
				t.Errorf("%v", err)
			}
			raw, err := os.ReadFile(junit)
			if err != nil {
				t.Fatal(err)
			}
			for report, parts := range map[string][]string{
				string(raw):  {`<testcase classname="dreamcore.gate" name="2 isolation"`, `<failure message="the check could not start: `, `tests="2" failures="1"`},
				out.String(): {`"passed":false`, `"name":"isolation","status":"fail","detail":"the check could not start: `, `"name":"streaming","status":"skipped"`},
			} {
				for _, part := range append(parts, tt.want) {
					if !strings.Contains(report, part) {
						t.Errorf("%q is not in\n%s", part, report)
					}
				}
				if strings.Contains(report, "hunter2") {
					t.Errorf("a password is in\n%s", report)
				}
			}
		})
	}
}

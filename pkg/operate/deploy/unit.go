package deploy

import (
	"bytes"
	"context"
	"embed"
	"io/fs"
	"os"
	"text/template"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// units are the templates of the unit files. They say why a directive is there, or is
// missing.
//
//go:embed units
var units embed.FS

// runtimeRunc is the value of the setting runtime that selects runc.
const runtimeRunc = "runc"

type unitValues struct {
	Name, Socket, Program, Config, Environment, State string
	Credential, Identity                              string
	Sealed                                            bool
	Runc                                              bool // the engine is runc, which needs more than gVisor
	StopSeconds                                       int
}

// render fills in the template of a unit: service or socket. It cannot fail: the
// templates are constant and tested.
func render(unit string, values any) []byte {
	var b bytes.Buffer
	_ = template.Must(template.ParseFS(units, "units/"+unit+".tmpl")).Execute(&b, values)
	return b.Bytes()
}

// stopMargin is the time that the service needs after the grace to stop sandboxes
// and to write its last log lines.
const stopMargin = 45 * time.Second

func (p *Plan) unitContent() []byte {
	s := p.o.Settings
	return render("service", unitValues{
		Name: UnitName, Socket: SocketName, Program: ProgramFile, Config: ConfigFile, Environment: EnvironmentFile,
		State: s.State, Credential: p.o.Credential, Identity: p.credentialPath(), Sealed: p.sealed, Runc: s.Runtime == runtimeRunc,
		// Jobs get the grace; downloads may take as long again.
		StopSeconds: int((2*s.Grace + stopMargin).Round(time.Second) / time.Second),
	})
}

func (p *Plan) socketUnit() action {
	return p.unit(socketStep, SocketName, SocketFile, p.socketContent)
}

func (p *Plan) serviceUnit() action { return p.unit(unitStep, UnitName, UnitFile, p.unitContent) }

// unit returns the action that writes a unit file. A masked unit stays masked.
func (p *Plan) unit(step, name, path string, content func() []byte) action {
	a := p.file(step, path, 0o644, content, false)
	check := a.check
	a.check = func(ctx context.Context) (Status, error) {
		host, fi, err := p.lstat(path)
		if err != nil {
			return "", err
		}
		if fi != nil && fi.Mode()&fs.ModeSymlink != 0 {
			if to, err := os.Readlink(host); err == nil && to == os.DevNull {
				return "", &dreamcore.Error{
					Code: dreamcore.CodeConflict, Reason: ReasonOccupied, Message: "the unit " + name + " is masked on this machine",
					Hint: "run: systemctl unmask " + name,
				}
			}
		}
		return check(ctx)
	}
	return a
}

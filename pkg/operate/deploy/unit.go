package deploy

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"text/template"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// unitTemplate is the unit file. Every directive was tried with real gVisor
// sandboxes under a real systemd 252. The directives and capabilities below are
// missing, or present, for these reasons:
//
//   - User= is missing: gVisor creates namespaces and mounts, which needs root,
//     but not most of root's capabilities. gVisor needs SETUID, SETGID, SETFCAP
//     (to map root into a user namespace, since Linux 5.12) and SYS_ADMIN. The
//     service needs CHOWN, DAC_OVERRIDE, FOWNER, FSETID and KILL for projects,
//     which belong to the account, and NET_BIND_SERVICE for ports like 80.
//   - runc also needs SYS_CHROOT to enter a sandbox's mount namespace, SYS_PTRACE
//     to inspect the namespaces of its child, AF_NETLINK to talk to that child and
//     to configure loopback, and cgroup namespaces, one for each sandbox.
//   - ProtectControlGroups= is missing: the service creates a cgroup for each sandbox.
//   - MemoryDenyWriteExecute= is missing: gVisor maps guests' code and does not
//     boot with it.
//   - ProcSubset=pid is missing: cgroups are found through other files of /proc.
//   - UMask=0077 is missing: another user must read the root file system of
//     sandboxes, which the service creates. Secrets lie in directories of mode 0700.
//   - PrivateUsers= and DynamicUser= are missing: with them there is no root and
//     no mount.
//   - PrivateNetwork= is missing: the service serves HTTP and calls the model
//     API. Sandboxes have no network in any case.
//   - SystemCallFilter=~@debug is missing: gVisor's systrap platform starts with ptrace.
//   - SystemCallFilter=~@mount and ~@privileged are missing for the reasons of User=.
//
// A filter must return an error instead of killing the process: filters are
// inherited by the processes that run guests' code. gVisor traps their system
// calls with a filter of its own, and a kill would take precedence over the trap.
const unitTemplate = `# Made by: dreamcore deploy
# Put changes into a drop-in: systemctl edit {{.Name}}

[Unit]
Description=dreamcore: browser games from prompts, made in {{if .Runc}}runc{{else}}gVisor{{end}} sandboxes
Documentation=https://github.com/notef-neighbor/dreamcore
Wants=network-online.target
After=network-online.target
RequiresMountsFor={{.State}}
StartLimitIntervalSec=5min
StartLimitBurst=5

[Service]
Type=exec
ExecStart={{.Program}} serve --config {{.Config}}
# Proxies and the like, as NAME=value; the file need not exist.
EnvironmentFile=-{{.Environment}}
{{if .Sealed -}}
LoadCredentialEncrypted={{.Credential}}:{{.Identity}}
{{- else -}}
LoadCredential={{.Credential}}:{{.Identity}}
{{- end}}

# SIGTERM goes to the service only: it waits for running generations and then
# stops its sandboxes itself.
KillMode=mixed
TimeoutStopSec={{.StopSeconds}}
Restart=on-failure
RestartSec=2
# Exit code 2 means a wrong setting: a restart does not fix it.
RestartPreventExitStatus=2
# A sandbox that runs out of memory must not stop the service.
OOMPolicy=continue
# If the machine runs out of memory, the kernel kills a sandbox (500) first.
OOMScoreAdjust=-500
TasksMax=infinity
LimitNOFILE=1048576
LimitCORE=0
Delegate=yes

CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_FSETID CAP_KILL
CapabilityBoundingSet=CAP_SETGID CAP_SETUID CAP_SETFCAP CAP_SYS_ADMIN CAP_NET_BIND_SERVICE
{{- if .Runc}}
# NET_ADMIN is for the device rules that runc sets with cgroup v2.
CapabilityBoundingSet=CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_NET_ADMIN
{{- end}}
NoNewPrivileges=yes
ProtectSystem=strict
ReadWritePaths={{.State}}
ProtectHome=yes
PrivateTmp=yes
# Loop devices for the file systems of users, besides null, zero, random and the like.
DevicePolicy=closed
DeviceAllow=/dev/loop-control rw
DeviceAllow=block-loop rw
PrivateIPC=yes
RemoveIPC=yes
KeyringMode=private
ProtectProc=invisible
ProtectClock=yes
{{- if not .Runc}}
ProtectHostname=yes
{{- end}}
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6{{if .Runc}} AF_NETLINK{{end}}
RestrictNamespaces=user pid net uts mnt ipc{{if .Runc}} cgroup{{end}}
SystemCallArchitectures=native
SystemCallFilter=~@clock @cpu-emulation @module @obsolete @raw-io @reboot @swap
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
`

// runtimeRunc is the value of the setting runtime that selects runc.
const runtimeRunc = "runc"

// unitValues are the values of the template.
type unitValues struct {
	Name, Program, Config, Environment, State string
	Credential, Identity                      string
	Sealed                                    bool
	Runc                                      bool // the engine is runc, which needs more than gVisor
	StopSeconds                               int
}

func render(v unitValues) []byte {
	var b bytes.Buffer
	// Neither parsing nor execution can fail: the template is constant and tested.
	_ = template.Must(template.New("unit").Parse(unitTemplate)).Execute(&b, v)
	return b.Bytes()
}

// stopMargin is the time that the service needs after the grace to stop sandboxes
// and to write its last log lines.
const stopMargin = 45 * time.Second

func (p *Plan) unitContent() []byte {
	s := p.o.Settings
	return render(unitValues{
		Name: UnitName, Program: ProgramFile, Config: ConfigFile, Environment: EnvironmentFile,
		State: s.State, Credential: p.o.Credential, Identity: p.credentialPath(), Sealed: p.sealed, Runc: s.Runtime == runtimeRunc,
		// Streams get the grace first, then generations without a listener.
		StopSeconds: int((2*s.Grace + stopMargin).Round(time.Second) / time.Second),
	})
}

// unit is the action that writes the unit file. A masked unit stays masked.
type unit struct{ file }

func (u *unit) check(ctx context.Context) (Status, error) {
	host, fi, err := u.plan.lstat(u.path)
	if err != nil {
		return "", err
	}
	if fi != nil && fi.Mode()&fs.ModeSymlink != 0 {
		if to, _ := os.Readlink(host); to == os.DevNull {
			return "", &dreamcore.Error{
				Code: dreamcore.CodeConflict, Reason: ReasonOccupied, Message: "the service " + UnitName + " is masked on this machine",
				Hint: "run: systemctl unmask " + UnitName,
			}
		}
	}
	return u.file.check(ctx)
}

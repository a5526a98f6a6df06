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

// unitTemplate is the service. Everything in it was tried with real gVisor
// sandboxes under a real systemd 252. What a reader may miss, and why:
//
//   - User=: gVisor makes namespaces and mounts, which needs root. What it does
//     not need is most of root's capabilities. SETUID, SETGID, SETFCAP (to map
//     root into a user namespace, since Linux 5.12) and SYS_ADMIN are what
//     gVisor was seen to need; CHOWN, DAC_OVERRIDE, FOWNER, FSETID and KILL are
//     the service's, for projects, which belong to the account;
//     NET_BIND_SERVICE lets it listen on ports like 80.
//   - With runc, and only then: SYS_CHROOT, by which it enters a sandbox's mount
//     namespace; SYS_PTRACE, to look at the namespaces of its child; AF_NETLINK,
//     over which it speaks with that child and brings loopback up; and cgroup
//     namespaces, of which each sandbox has one.
//   - ProtectControlGroups=: each sandbox has a cgroup, which the service makes.
//   - MemoryDenyWriteExecute=: gVisor maps guests' code; it does not boot with it.
//   - ProcSubset=pid: cgroups are found through other files of /proc.
//   - UMask=0077: the sandboxes' root is made here for another user to read.
//     What is secret lies in directories of mode 0700.
//   - PrivateUsers=, DynamicUser=: no root, no mounts.
//   - PrivateNetwork=: it serves HTTP and asks the model API. Sandboxes have no
//     network in any case.
//   - SystemCallFilter=~@debug: gVisor's systrap platform begins with ptrace.
//   - SystemCallFilter=~@mount, ~@privileged: see User=.
//
// A filter must refuse with an error and not kill: filters are inherited by
// the processes that run guests' code, whose system calls gVisor catches with
// a filter of its own, and killing would win over catching.
const unitTemplate = `# Made by: dreamcore deploy
# Changes belong into a drop-in: systemctl edit {{.Name}}

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

# SIGTERM goes to the service alone, which lets running generations end and
# then takes its sandboxes down itself.
KillMode=mixed
TimeoutStopSec={{.StopSeconds}}
Restart=on-failure
RestartSec=2
# Exit code 2 is a wrong setting: trying again does not mend it.
RestartPreventExitStatus=2
# A sandbox that runs out of memory is no reason to stop the service.
OOMPolicy=continue
# Where the machine runs out of memory, the kernel takes a sandbox (500) first.
OOMScoreAdjust=-500
TasksMax=infinity
LimitNOFILE=1048576
LimitCORE=0
Delegate=yes

CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_FSETID CAP_KILL
CapabilityBoundingSet=CAP_SETGID CAP_SETUID CAP_SETFCAP CAP_SYS_ADMIN CAP_NET_BIND_SERVICE
{{- if .Runc}}
# The last is for the rules about devices that runc makes with cgroup v2.
CapabilityBoundingSet=CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_NET_ADMIN
{{- end}}
NoNewPrivileges=yes
ProtectSystem=strict
ReadWritePaths={{.State}}
ProtectHome=yes
PrivateTmp=yes
# Loop devices, for the file systems of users, and the harmless ones.
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

// runtimeRunc is the setting runtime of those who have chosen runc.
const runtimeRunc = "runc"

// unitValues fill the template.
type unitValues struct {
	Name, Program, Config, Environment, State string
	Credential, Identity                      string
	Sealed                                    bool
	Runc                                      bool // the engine, which needs more than gVisor
	StopSeconds                               int
}

func render(v unitValues) []byte {
	var b bytes.Buffer
	// Neither parsing nor execution can fail: both are the same in every test.
	_ = template.Must(template.New("unit").Parse(unitTemplate)).Execute(&b, v)
	return b.Bytes()
}

// stopMargin is for what the service does after the grace: ending sandboxes
// and writing the last lines.
const stopMargin = 45 * time.Second

func (p *Plan) unitContent() []byte {
	s := p.o.Settings
	return render(unitValues{
		Name: UnitName, Program: ProgramFile, Config: ConfigFile, Environment: EnvironmentFile,
		State: s.State, Credential: p.o.Credential, Identity: p.credentialPath(), Sealed: p.sealed, Runc: s.Runtime == runtimeRunc,
		// Streams get the grace first, then generations that nobody listens to.
		StopSeconds: int((2*s.Grace + stopMargin).Round(time.Second) / time.Second),
	})
}

// unit is the unit file. One that an administrator has masked stays masked.
type unit struct{ file }

func (u *unit) check(ctx context.Context) (Status, error) {
	host, fi, err := u.plan.lstat(u.path)
	if err != nil {
		return "", err
	}
	if fi != nil && fi.Mode()&fs.ModeSymlink != 0 {
		if to, _ := os.Readlink(host); to == os.DevNull {
			return "", &dreamcore.Error{
				Code: dreamcore.CodeConflict, Message: "the service " + UnitName + " is masked on this machine",
				Hint: "run: systemctl unmask " + UnitName,
			}
		}
	}
	return u.file.check(ctx)
}

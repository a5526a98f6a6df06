package deploy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
)

// A service proves a sandbox before it listens: seconds, on a busy machine
// many.
const (
	healthLimit    = 90 * time.Second
	healthInterval = 200 * time.Millisecond
)

// endpoints of a service by where it listens.
type endpoints struct {
	local  string // for this machine
	others string // for whoever can reach it
}

// addresses are the base addresses of a service that listens on listen. host
// is this machine's name, for a service that listens everywhere.
func addresses(listen, host string) (endpoints, error) {
	name, port, err := net.SplitHostPort(listen)
	n, perr := strconv.Atoi(port)
	if err != nil || perr != nil || n < 1 || n > 65535 {
		return endpoints{}, invalid("write it like 127.0.0.1:8080, with a port of your choice",
			"the service cannot listen on %q: front ends need HOST:PORT with a fixed port", listen)
	}
	local, others := name, name
	if ip := net.ParseIP(name); name == "" || ip != nil && ip.IsUnspecified() {
		local, others = "127.0.0.1", host
		if ip != nil && ip.To4() == nil {
			local = "::1"
		}
		if others == "" {
			others = local
		}
	}
	return endpoints{"http://" + net.JoinHostPort(local, port), "http://" + net.JoinHostPort(others, port)}, nil
}

// Address is the base address of the service on this machine.
func (p *Plan) Address() string {
	e, _ := addresses(p.o.Settings.Listen, "") // validated
	return e.local
}

// Wiring is what a front end of the old backend needs: two lines for its
// environment.
type Wiring struct {
	Endpoint string `json:"endpoint"` // base address
	// Lines set MODAL_ENDPOINT and MODAL_INTERNAL_SECRET. The endpoint is the
	// full address of generate_game, from which old clients make those of the
	// other endpoints by replacing its name, and which ours take too. The
	// second line is for a shell, which runs the command in it.
	Lines [2]string `json:"lines"`
}

// Wire tells how to reach the service. host is the name of this machine, for a
// service that listens on all of its addresses.
func (p *Plan) Wire(host string) Wiring {
	e, _ := addresses(p.o.Settings.Listen, host) // validated
	show := "sudo " + ProgramFile + " secret show " + secret.InternalSecret + " " + secret.InternalKey
	if p.o.Settings.State != filepath.Join("/var/lib", dreamcore.AppName) {
		show += " --state " + p.o.Settings.State
	}
	return Wiring{Endpoint: e.others, Lines: [2]string{
		"MODAL_ENDPOINT=" + e.others + "/" + client.NameGenerateGame,
		"MODAL_INTERNAL_SECRET=$(" + show + ")",
	}}
}

// awaitHealth returns when the service that was just started answers, or with
// an error as soon as systemd has given it up.
func (p *Plan) awaitHealth(ctx context.Context) error {
	ep, err := client.ParseEndpoint(p.Address())
	if err != nil {
		return err
	}
	c, err := client.New(client.Options{Endpoint: ep, Timeout: 5 * time.Second, UserAgent: "dreamcore/" + p.o.Version})
	if err != nil {
		return err
	}
	defer c.Close()
	limited, cancel := context.WithTimeoutCause(ctx, p.limit, errLate)
	defer cancel()
	tick := time.NewTicker(healthInterval)
	defer tick.Stop()
	for {
		h, herr := c.Health(limited)
		state, err := p.state(limited)
		switch {
		case limited.Err() != nil: // told below
		case err != nil:
			return err
		case state.active == "failed" || state.sub == "auto-restart":
			return p.notStarted(ctx, "systemd says "+state.active+" ("+state.result+")")
		case herr == nil && state.active == "active":
			return p.checkHealth(h)
		}
		select {
		case <-limited.Done():
			if !errors.Is(context.Cause(limited), errLate) {
				return context.Cause(ctx)
			}
			return p.notStarted(ctx, fmt.Sprintf("%s/health did not answer within %v", p.Address(), p.limit))
		case <-tick.C:
		}
	}
}

var errLate = errors.New("the service is late")

// checkHealth tells our service from another that has its port.
func (p *Plan) checkHealth(h client.Health) error {
	if h.App == dreamcore.AppName && h.Version == p.o.Version {
		return nil
	}
	return &dreamcore.Error{
		Code:    dreamcore.CodeConflict,
		Message: fmt.Sprintf("something else answers at %s: %s %s instead of %s %s", p.Address(), h.App, h.Version, dreamcore.AppName, p.o.Version),
		Hint:    "stop what listens there, or set another address with listen: in " + ConfigFile + "; then run: dreamcore deploy",
	}
}

package deploy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/notef-neighbor/dreamcore/pkg/api/client"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"github.com/notef-neighbor/dreamcore/pkg/store/secret"
)

// A service proves a sandbox before it listens, which takes seconds, and longer
// on a busy machine.
const (
	healthLimit    = 90 * time.Second
	healthInterval = 200 * time.Millisecond
)

// address returns the base address of a service that listens on listen. host is
// the name of this machine, used if the service listens on all addresses; if it
// is "", the address is that of loopback.
func address(listen, host string) (string, error) {
	name, port, err := net.SplitHostPort(listen)
	n, perr := strconv.Atoi(port)
	if err != nil || perr != nil || n < 1 || n > 65535 {
		return "", invalid(ReasonListen, "use an address like 127.0.0.1:8080 with a fixed port",
			"the service cannot listen on %q: front ends need HOST:PORT with a fixed port", listen)
	}
	if ip := net.ParseIP(name); name == "" || ip != nil && ip.IsUnspecified() {
		name = "127.0.0.1"
		if ip != nil && ip.To4() == nil {
			name = "::1"
		}
		name = cmp.Or(host, name)
	}
	return "http://" + net.JoinHostPort(name, port), nil
}

// Address returns the base address of the service on this machine.
func (p *Plan) Address() string {
	local, _ := address(p.o.Settings.Listen, "") // validated
	return local
}

// Wiring is the configuration of a front end that was written for Modal: two
// lines for its environment.
type Wiring struct {
	Endpoint string `json:"endpoint"` // base address
	// Lines set MODAL_ENDPOINT and MODAL_INTERNAL_SECRET. The endpoint is the
	// full address of generate_game: such front ends derive the other addresses
	// by replacing the name, and our client accepts it too. The second line is
	// for a shell, which runs the command in it.
	Lines [2]string `json:"lines"`
}

// Wire returns how a front end reaches the service. host is the name of this
// machine, used if the service listens on all addresses.
func (p *Plan) Wire(host string) Wiring {
	base, _ := address(p.o.Settings.Listen, host) // validated
	show := "sudo " + ProgramFile + " secret show " + secret.InternalSecret + " " + secret.InternalKey
	if p.o.Settings.State != DefaultState {
		show += " --state " + p.o.Settings.State
	}
	return Wiring{Endpoint: base, Lines: [2]string{
		"MODAL_ENDPOINT=" + base + "/" + client.NameGenerateGame,
		"MODAL_INTERNAL_SECRET=$(" + show + ")",
	}}
}

// awaitHealth waits until the service that was just started answers. It returns
// an error as soon as systemd reports that the start failed.
func (p *Plan) awaitHealth(ctx context.Context) error {
	c, err := client.New(p.Address(), client.Options{Timeout: 5 * time.Second, UserAgent: "dreamcore/" + p.o.Version})
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
		case limited.Err() != nil: // handled below
		case err != nil:
			return err
		case state["ActiveState"] == "failed" || state["SubState"] == "auto-restart":
			return p.notStarted(ctx, "systemd says "+state["ActiveState"]+" ("+state["Result"]+")")
		case herr == nil && state["ActiveState"] == "active":
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

// checkHealth returns an error if another service answers on the port.
func (p *Plan) checkHealth(h client.Health) error {
	if h.App == dreamcore.AppName && h.Version == p.o.Version {
		return nil
	}
	return &dreamcore.Error{
		Code: dreamcore.CodeConflict, Reason: ReasonOccupied,
		Message: fmt.Sprintf("another service answers at %s: %s %s instead of %s %s", p.Address(), h.App, h.Version, dreamcore.AppName, p.o.Version),
		Hint:    "stop the service that listens there, or set another address with listen: in " + ConfigFile,
	}
}

package deploy

import (
	"net"
	"net/netip"
	"strings"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// SocketName is the name of the unit that holds the sockets of the service.
const SocketName = dreamcore.AppName + ".socket"

// SocketFile is the file of that unit.
const SocketFile = "/etc/systemd/system/" + SocketName

// socketValues are the values of the template.
type socketValues struct {
	Name      string
	Addresses []string
}

func (p *Plan) socketContent() []byte {
	v := socketValues{Name: SocketName}
	for _, listen := range p.o.Settings.sockets() {
		address, _ := streamAddress(listen) // validated
		v.Addresses = append(v.Addresses, address)
	}
	return render("socket", v)
}

// sockets returns the configured addresses that systemd opens. It cannot pick a free
// port that the service would recognize.
func (s Settings) sockets() []string {
	all := []string{s.Listen}
	if _, port, err := net.SplitHostPort(s.PreviewListen); err == nil && port != "0" {
		all = append(all, s.PreviewListen)
	}
	return all
}

// streamAddress returns a configured address as ListenStream= takes it. All
// addresses of the machine are a bare port: that includes IPv6 where the machine has
// it.
func streamAddress(listen string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", err
	}
	if host == "localhost" {
		host = "127.0.0.1" // as Listen chooses
	}
	ip, err := netip.ParseAddr(host)
	switch {
	case host == "" || err == nil && ip.IsUnspecified():
		return port, nil
	case err != nil || !plainZone(ip.Zone()):
		return "", invalid(ReasonListen, "use an address of this machine, like 127.0.0.1:8080",
			"the service cannot listen on %q: systemd opens the socket, and takes IP addresses, no names", listen)
	}
	return strings.ReplaceAll(net.JoinHostPort(host, port), "%", "%%"), nil
}

// plainZone reports whether a zone, which names a network interface, needs no quoting
// in a unit.
func plainZone(zone string) bool { return !strings.ContainsFunc(zone, special) }

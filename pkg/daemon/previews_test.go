package daemon

import (
	"net"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/config"
)

func TestPreviewAddressIsDerivedFromSettings(t *testing.T) {
	at := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 8080}
	for _, tt := range []struct{ listen, domain, previews, want string }{
		{"127.0.0.1:8080", "", "", "http://LABEL.localhost:8080/"},
		{"localhost:0", "", "", "http://LABEL.localhost:8080/"},
		{"[::1]:8080", "", "", "http://LABEL.localhost:8080/"},
		{"0.0.0.0:8080", "", "", ""},
		{":8080", "", "", ""},
		{"0.0.0.0:80", "", "127.0.0.1:8080", "http://LABEL.localhost:8080/"},
		{"127.0.0.1:80", "", "192.0.2.7:8080", "http://192.0.2.7:8080/TOKEN/"},
		{"127.0.0.1:80", "", "[2001:db8::7]:8080", "http://[2001:db8::7]:8080/TOKEN/"},
		{":8080", "games.example.com", "", "https://LABEL.games.example.com/"},
		{":80", "games.example.com", ":8080", "https://LABEL.games.example.com/"},
		{":8080", "http://games.internal:8080", "", "http://LABEL.games.internal:8080/"},
		{":8080", "localhost", "", "http://LABEL.localhost:8080/"},
		{":80", "localhost:9000", "", "http://LABEL.localhost:9000/"},
		{"127.0.0.1:8080", config.PreviewOff, "", ""},
	} {
		place, ok := previewPlace(config.Config{Listen: tt.listen, PreviewDomain: tt.domain, PreviewListen: tt.previews}, at)
		got := ""
		if ok {
			got = place.String()
		}
		if got != tt.want {
			t.Errorf("%+v: %s", tt, got)
		}
	}
}

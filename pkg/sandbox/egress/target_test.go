package egress

import (
	"strings"
	"testing"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestParseTarget(t *testing.T) {
	tests := map[string]string{ // "" means refused
		"api.example.com:443":      "api.example.com:443",
		"API.Example.COM.:8443":    "api.example.com:8443",
		"localhost:1":              "localhost:1",
		"xn--bcher-kva.example:80": "xn--bcher-kva.example:80",
		"93.184.216.34:443":        "93.184.216.34:443",
		"[2606:4700::0001]:443":    "[2606:4700::1]:443",
		"a-b.c1:65535":             "a-b.c1:65535",

		"": "", ":443": "", "api.example.com": "", "api.example.com:": "", "api.example.com:0": "",
		"api.example.com:65536": "", "api.example.com:0443": "", "api.example.com:+443": "", "api.example.com:https": "",
		"api.example.com:443:443": "", "api.example.com:443/": "", "http://api.example.com:443": "", "user@api.example.com:443": "",
		"api.example.com:443 ": "", " api.example.com:443": "", "api..example.com:443": "", ".example.com:443": "", "api.example.com..:443": "",
		"-a.example.com:443": "", "a-.example.com:443": "", "a_b.example.com:443": "", "api.example.com\x00:443": "", "api.exa mple.com:443": "",
		"bücher.example:443": "", "xn--a.example:443": "", "*.example.com:443": "", "api%2eexample.com:443": "", "api.example.com#:443": "",
		"ａpi.example.com:443": "", // full width
		"127.1:80":            "", "2130706433:80": "", "0x7f000001:80": "", "0x7f.1:80": "", "017700000001:80": "", "127.0.0.01:80": "", "1.2.3.4.5:80": "", "a.0x:80": "",
		"[::1%lo]:443": "", "[::ffff:127.0.0.1]:443": "", "2606:4700::1:443": "", "[2606:4700::1]": "", "[2606:4700::1]443": "", "[2606:4700::1": "",
		"[api.example.com]:443": "", "[127.0.0.1]:80": "", "[::1]]:443": "", "[]:443": "", "[2606:4700::1]:": "",
		strings.Repeat("a", 64) + ".example:443":    "",
		strings.Repeat("a.", 127) + "example.com:1": "",
	}
	for in, want := range tests {
		got, err := parseTarget(in)
		if (err == nil) != (want != "") || err == nil && got.String() != want {
			t.Errorf("%q: %v, %v, want %q", in, got, err, want)
		}
	}
}

func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{"api.example.com:443", "[2606:4700::1]:443", "127.0.0.1:80", "xn--bcher-kva.example:1", "0x7f.1:80", "[::ffff:1.2.3.4]:1", "A.:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseTarget(s)
		if err != nil {
			return
		}
		again, err := parseTarget(got.String())
		if err != nil || again != got {
			t.Errorf("%q is %v, which is %v, %v", s, got, again, err)
		}
		if !isASCII(got.Host) || strings.ContainsAny(got.Host, " /@%#?\\\r\n\t_*") || got.Host != strings.ToLower(got.Host) || strings.HasSuffix(got.Host, ".") {
			t.Errorf("%q is %q", s, got.Host)
		}
	})
}

func TestPolicy(t *testing.T) {
	p, err := ParsePolicy(
		[]string{"API.example.com", "Bücher.example:8443", "*.cdn.example.org", "93.184.216.34", "[2606:4700::1]:8443", "plain.example.com:80"},
		[]string{"db.internal:5432", "127.0.0.1:9000"},
		[]string{"api.example.com=openai/KEY:x-api-key"},
	)
	if err != nil {
		t.Fatal(err)
	}
	for target, want := range map[string]string{
		"api.example.com:443": "inject", "api.example.com:80": "no", "api.example.com:8443": "no", "www.api.example.com:443": "no", "example.com:443": "no",
		"xn--bcher-kva.example:8443": "yes", "a.cdn.example.org:443": "yes", "a.b.cdn.example.org:443": "yes", "cdn.example.org:443": "no", "evilcdn.example.org:443": "no", "a.cdn.example.org:80": "no",
		"93.184.216.34:443": "yes", "[2606:4700::1]:8443": "yes", "[2606:4700::1]:443": "no", "plain.example.com:80": "yes", "plain.example.com:443": "no",
		"db.internal:5432": "private", "127.0.0.1:9000": "private", "127.0.0.1:9001": "no", "api.example.com.evil.com:443": "no",
	} {
		to, err := parseTarget(target)
		if err != nil {
			t.Fatal(err)
		}
		r, ok := p.find(to)
		got := map[bool]string{true: "yes", false: "no"}[ok]
		if r.private {
			got = "private"
		}
		if r.inject != nil {
			got = "inject"
		}
		if got != want {
			t.Errorf("%s: %s, want %s", target, got, want)
		}
	}
	if i := p.Injections(); len(i) != 1 || i[0] != (Injection{Target{"api.example.com", 443}, "openai", "KEY", "X-Api-Key", ""}) {
		t.Errorf("%+v", i)
	}
	var none *Policy
	if !none.Empty() || len(none.Injections()) != 0 || p.Empty() {
		t.Error("empty")
	}
}

func TestPolicyRefuses(t *testing.T) {
	for name, test := range map[string][3]string{
		"private address": {"10.0.0.1"}, "loopback": {"127.0.0.1:80"}, "metadata": {"169.254.169.254:80"}, "number": {"2130706433"},
		"all names": {"*.com"}, "all names of a registry": {"*.co.uk"}, "names that anyone can register": {"*.github.io"}, "star alone": {"*"}, "star inside": {"a.*.com"}, "star of addresses": {"*.1.1.1.1"},
		"URL": {"https://api.example.com"}, "empty": {""},
		"private without a port": {"", "db.internal"}, "private metadata": {"", "169.254.169.254:80"}, "private unspecified": {"", "0.0.0.0:80"}, "private star": {"", "*.internal.example:80"},
		"injection without a host": {"", "", "api.example.com=a:Authorization"}, "injection for a star": {"*.example.com", "", "a.example.com=a:Authorization"},
		"injection without a header": {"a.example.com", "", "a.example.com=a"}, "injection of Host": {"a.example.com", "", "a.example.com=a:host"},
		"injection of a bad header": {"a.example.com", "", "a.example.com=a:b c"}, "injection of a bad secret": {"a.example.com", "", "a.example.com=A_B:Authorization"},
	} {
		var lists [3][]string
		for i, s := range test {
			if s != "" || name == "empty" && i == 0 {
				lists[i] = []string{s}
			}
		}
		if _, err := ParsePolicy(lists[0], lists[1], lists[2]); dreamcore.CodeOf(err) != dreamcore.CodeInvalid || dreamcore.HintOf(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ParsePolicy([]string{"a.example.com"}, nil, []string{"a.example.com=x:A", "a.example.com=y:B"}); err == nil {
		t.Error("two injections for one host")
	}
}

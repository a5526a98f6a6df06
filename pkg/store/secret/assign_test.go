package secret

import (
	"io"
	"maps"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestParseAssignments(t *testing.T) {
	for name, c := range map[string]struct {
		args  []string
		stdin string
		want  map[string]string
	}{
		"one":                  {[]string{"n", "K=v"}, "", map[string]string{"K": "v"}},
		"two":                  {[]string{"n", "K=v", "_k2=w"}, "", map[string]string{"K": "v", "_k2": "w"}},
		"equals signs":         {[]string{"n", "K=a=b="}, "", map[string]string{"K": "a=b="}},
		"from stdin":           {[]string{"n", "K=-", "L=v"}, "secret\n", map[string]string{"K": "secret", "L": "v"}},
		"stdin CRLF":           {[]string{"n", "K=-"}, "secret\r\n", map[string]string{"K": "secret"}},
		"stdin without break":  {[]string{"n", "K=-"}, "secret", map[string]string{"K": "secret"}},
		"stdin keeps the rest": {[]string{"n", "K=-"}, " a\nb\n\n", map[string]string{"K": " a\nb\n"}},
		"stdin at the limit":   {[]string{"n", "K=-"}, strings.Repeat("x", MaxValueBytes) + "\r\n", map[string]string{"K": strings.Repeat("x", MaxValueBytes)}},
		"a longer dash":        {[]string{"n", "K=--"}, "", map[string]string{"K": "--"}},
	} {
		t.Run(name, func(t *testing.T) {
			got, values, err := ParseAssignments(c.args, strings.NewReader(c.stdin))
			if err != nil || got != "n" || !maps.Equal(values, c.want) {
				t.Fatalf("%q %.50v, %v", got, values, err)
			}
		})
	}
}

func TestParseAssignmentsRefusesWithoutQuoting(t *testing.T) {
	for name, c := range map[string]struct {
		args  []string
		stdin io.Reader
	}{
		"nothing":        {nil, nil},
		"no value":       {[]string{"n"}, nil},
		"bad name":       {[]string{"NEEDLE", "K=v"}, nil},
		"no name":        {[]string{"K=needle"}, nil},
		"no equals":      {[]string{"n", "needle"}, nil},
		"bad key":        {[]string{"n", "needle-x=v"}, nil},
		"no key":         {[]string{"n", "=needle"}, nil},
		"digit":          {[]string{"n", "1needle=v"}, nil},
		"twice":          {[]string{"n", "K=needle", "K=needle"}, nil},
		"empty":          {[]string{"n", "K="}, nil},
		"two from stdin": {[]string{"n", "K=-", "L=-"}, strings.NewReader("needle")},
		"no stdin":       {[]string{"n", "K=-"}, nil},
		"empty stdin":    {[]string{"n", "K=-"}, strings.NewReader("\n")},
		"long stdin":     {[]string{"n", "K=-"}, strings.NewReader(strings.Repeat("needle", MaxValueBytes))},
		"endless stdin":  {[]string{"n", "K=-"}, endless{}},
		"long":           {[]string{"n", "K=" + strings.Repeat("needle", MaxValueBytes)}, nil},
		"NUL":            {[]string{"n", "K=needle\x00"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := ParseAssignments(c.args, c.stdin)
			if err == nil || dreamcore.CodeOf(err) != dreamcore.CodeInvalid || dreamcore.HintOf(err) == "" {
				t.Fatalf("%v", err)
			}
			if strings.Contains(strings.ToLower(err.Error()+dreamcore.HintOf(err)), "needle") {
				t.Fatalf("the error quotes the argument: %v", err)
			}
		})
	}
	if _, _, err := ParseAssignments([]string{"n", "K=-"}, iotest.ErrReader(io.ErrNoProgress)); err == nil {
		t.Fatal("a failed read of standard input returned a value")
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// FuzzParseAssignments checks that accepted values can be stored unchanged.
func FuzzParseAssignments(f *testing.F) {
	f.Add("n", "K=v", "L=-", "stdin\n")
	f.Add("N", "=", "-", "")
	f.Add("a-b", "K==", "k=\x00", "\r\n")
	f.Fuzz(func(t *testing.T, name, a, b, stdin string) {
		got, values, err := ParseAssignments([]string{name, a, b}, strings.NewReader(stdin))
		if err != nil {
			if dreamcore.CodeOf(err) != dreamcore.CodeInvalid || dreamcore.HintOf(err) == "" {
				t.Fatalf("%v", err)
			}
			return
		}
		if got != name || CheckName(got) != nil || len(values) != 2 || checkValues(values) != nil {
			t.Fatalf("accepted %q %q", got, values)
		}
		for _, arg := range []string{a, b} {
			key, value, _ := strings.Cut(arg, "=")
			if value != "-" && values[key] != value {
				t.Fatalf("%q became %q", arg, values[key])
			}
		}
	})
}

package term

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/charmbracelet/x/ansi"
	"github.com/google/go-cmp/cmp"
	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// terminal returns an IO whose streams are all the same terminal.
func terminal(in string) (*IO, *bytes.Buffer) {
	t, out, _ := Buffers(in)
	t.ErrOut = out
	t.InTerminal, t.OutTerminal, t.ErrTerminal = true, true, true
	t.Color, t.Rewrite, t.Width = true, true, 60
	return t, out
}

func same(t *testing.T, got, want string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("output differs (-want +got):\n%s", diff)
	}
}

func TestPipeOutputIsPlain(t *testing.T) {
	tio, out, _ := Buffers("")
	p := tio.Stdout()
	p.Heading("Setup", "first run")
	p.Success("secret anthropic-api-key", "sealed", "", "from the environment")
	p.Failure("no agent")
	p.Warning("rootless")
	p.Info("note")
	p.Status(Skipped, "skipped")
	p.Hint("run: dreamcore setup")
	p.Hint("")
	p.Pairs(Pair{Key: "state", Value: "here"}, Pair{Key: "鍵", Value: "v", Tone: Good})
	p.Print("one\r\ntwo\x1b[31m\n\n")
	same(t, out.String(), `Setup  first run

✓ secret anthropic-api-key  sealed · from the environment
✗ no agent
! rootless
• note
– skipped
→ run: dreamcore setup
  state  here
  鍵     v
one
two
`)
}

func TestTerminalOutputIsStyled(t *testing.T) {
	tio, out := terminal("")
	p := tio.Stdout()
	p.Success("done", "1.2 kB")
	p.Hint("run: dreamcore serve")
	p.Heading("Gates", "")
	same(t, out.String(), "\x1b[32m✓\x1b[0m done  \x1b[2m1.2 kB\x1b[0m\n"+
		"\x1b[2m→\x1b[0m run: \x1b[36mdreamcore serve\x1b[0m\n"+
		"\x1b[1mGates\x1b[0m\n\n")
}

func TestColourDependsOnTheEnvironment(t *testing.T) {
	for _, tt := range []struct {
		name           string
		env            map[string]string
		color, rewrite bool
	}{
		{"nothing set", nil, true, true},
		{"NO_COLOR", map[string]string{"NO_COLOR": "1"}, false, true},
		{"CLICOLOR=0", map[string]string{"CLICOLOR": "0"}, false, true},
		{"TERM=dumb", map[string]string{"TERM": "dumb"}, false, false},
		{"TERM=xterm", map[string]string{"TERM": "xterm-256color"}, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tio := System(nil, nil, nil, func(k string) string { return tt.env[k] })
			if tio.Color != tt.color || tio.Rewrite != tt.rewrite {
				t.Errorf("Color, Rewrite = %v, %v; want %v, %v", tio.Color, tio.Rewrite, tt.color, tt.rewrite)
			}
		})
	}
	tio, out := terminal("")
	tio.Color = false
	tio.Stdout().Success("plain", "detail")
	same(t, out.String(), "✓ plain  detail\n")
}

func TestForeignTextCannotControlTheTerminal(t *testing.T) {
	tio, out := terminal("")
	evil := "a\x1b]0;title\x07b\x1b[2Jc\rd\x9be\u009b31mf"
	p := tio.Stdout()
	p.Status(Done, evil, evil)
	p.Heading(evil, evil)
	p.Hint(evil)
	p.Hint("run: " + evil)
	p.Pairs(Pair{Key: evil, Value: evil})
	p.Table(Table{Columns: []Column{{Title: evil}}, Rows: [][]Cell{Row(evil)}})
	p.Print(evil)
	tio.RenderError(&dreamcore.Error{Message: evil, Hint: evil, Err: errors.New(evil)})
	g := p.Progress(evil)
	g.Update(evil + "!")
	g.End(Done, evil)
	left := strings.NewReplacer(eraseLine, "", "\x1b[0m", "", "\x1b[1m", "", "\x1b[2m", "", "\x1b[1;31m", "",
		"\x1b[31m", "", "\x1b[32m", "", "\x1b[35m", "", "\x1b[36m", "", "\n", "").Replace(out.String())
	if !isClean(left) {
		t.Errorf("control characters got through: %q", left)
	}
	if strings.Contains(left, "title") {
		t.Errorf("the text of an escape sequence got through: %q", left)
	}
}

func TestTableAlignsWideCharacters(t *testing.T) {
	tio, out, _ := Buffers("")
	tio.Stdout().Table(Table{
		Columns: []Column{{Title: "name"}, {Title: "size", Right: true}, {Title: "note"}},
		Rows: [][]Cell{
			Row("ゲーム.js", "1.2 kB", "日本語"),
			Row("a.css", "12 B"),
			Row("🎮", "381 MB", "emoji", "extra cell"),
		},
	})
	same(t, out.String(), `NAME         SIZE  NOTE
ゲーム.js  1.2 kB  日本語
a.css        12 B
🎮         381 MB  emoji
`)
}

func TestTableWrapsOnlyOnATerminal(t *testing.T) {
	table := func() Table {
		return Table{
			Columns: []Column{{Title: "gate"}, {Title: "detail", Flex: true}, {Title: "time", Right: true}},
			Rows:    [][]Cell{{{Text: "one"}, {Text: "a long reason that does not fit into the line", Tone: Bad}, {Text: "1 s"}}},
		}
	}
	tio, out := terminal("")
	tio.Width, tio.Color = 40, false
	tio.Stdout().Table(table())
	same(t, out.String(), `GATE  DETAIL                        TIME
one   a long reason that does not    1 s
      fit into the line
`)
	for _, line := range strings.Split(out.String(), "\n") {
		if w := ansi.StringWidth(line); w > 40 {
			t.Errorf("line of %d columns: %q", w, line)
		}
	}
	piped, plain, _ := Buffers("")
	piped.Width = 40
	piped.Stdout().Table(table())
	if n := strings.Count(plain.String(), "\n"); n != 2 {
		t.Errorf("wrapped in a pipe:\n%s", plain)
	}
}

func TestProgressRewritesItsLineOnATerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tio, out := terminal("")
		tio.Color = false
		g := tio.Stderr().Progress("Starting")
		time.Sleep(frameInterval + time.Millisecond)
		tio.Stdout().Success("index.html")
		g.Update("Writing")
		g.Update("Writing")
		g.End(Done, "Done")
		g.Stop()
		same(t, out.String(), "⠋ Starting"+eraseLine+"⠙ Starting"+
			eraseLine+"✓ index.html\n⠙ Starting"+eraseLine+"⠙ Writing"+eraseLine+"✓ Done\n")
	})
}

func TestSlowProgressShowsTimeOnOneLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tio, out := terminal("")
		tio.Color, tio.Width = false, 24
		g := tio.Stderr().Progress("日本語の長い説明がここに入ります")
		time.Sleep(3*time.Second + time.Millisecond)
		g.Stop()
		frames := strings.Split(out.String(), eraseLine)
		last := frames[len(frames)-2]
		if !strings.HasSuffix(last, "…  3 s") {
			t.Errorf("last frame is %q, want the cut text and 3 s", last)
		}
		for _, f := range frames {
			if w := ansi.StringWidth(f); w >= 24 {
				t.Errorf("a frame takes %d of 24 columns: %q", w, f)
			}
		}
	})
}

func TestProgressIsPlainInAPipeAndOnADumbTerminal(t *testing.T) {
	for _, dumb := range []bool{false, true} {
		t.Run(fmt.Sprintf("dumb %v", dumb), func(t *testing.T) {
			tio, out, _ := Buffers("")
			tio.OutTerminal = dumb
			g := tio.Stdout().Progress("one")
			g.Update("one")
			g.Update("two")
			g.End(Failed, "no")
			same(t, out.String(), "… one\n… two\n✗ no\n")
		})
	}
}

func TestNewProgressStopsThePreviousOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tio, out := terminal("")
		tio.Color = false
		first := tio.Stdout().Progress("first")
		second := tio.Stderr().Progress("second")
		first.Update("late")
		time.Sleep(frameInterval + time.Millisecond)
		second.Stop()
		first.Stop()
		same(t, out.String(), "⠋ first"+eraseLine+"⠋ second"+eraseLine+"⠙ second"+eraseLine)
	})
}

func TestRenderErrorShowsMessageCauseAndHint(t *testing.T) {
	err := fmt.Errorf("prepare volume: %w", &dreamcore.Error{
		Code: dreamcore.CodeSetup, Message: "the state directory cannot be written",
		Hint: "run: sudo chown me /state", Err: errors.New("permission denied\nsecond line"),
	})
	tio, out, errOut := Buffers("")
	tio.RenderError(err)
	tio.RenderError(nil)
	same(t, errOut.String(), `✗ prepare volume: the state directory cannot be written
  permission denied
  second line
→ run: sudo chown me /state
`)
	same(t, out.String(), "")
}

func TestRenderErrorOfAnyOtherError(t *testing.T) {
	tio, _, errOut := Buffers("")
	tio.RenderError(errors.Join(errors.New("one"), errors.New("two")))
	tio.RenderError(errors.New(strings.Repeat("line\n", 100)))
	lines := strings.Split(errOut.String(), "\n")
	same(t, strings.Join(lines[:2], "\n"), "✗ one\n  two")
	if len(lines) > maxErrorLines+5 {
		t.Errorf("one error took %d lines", len(lines))
	}
}

func TestRenderErrorAsJSON(t *testing.T) {
	tio, out, errOut := Buffers("")
	tio.JSON = true
	tio.RenderError(&dreamcore.Error{Code: dreamcore.CodeSetup, Message: "a <b>\x1b[1m", Hint: "run: c", Err: errors.New("why")})
	same(t, errOut.String(), `{"error":"a <b>: why","code":"SETUP","hint":"run: c"}`+"\n")
	same(t, out.String(), "")
}

func TestWriteJSONIsOneLineOnOut(t *testing.T) {
	tio, out, errOut := Buffers("")
	tio.JSON = true
	if err := tio.WriteJSON(map[string]any{"a": "<&>\n", "b": []int{1}}); err != nil {
		t.Fatal(err)
	}
	if err := tio.WriteLine([]byte(`{"type":"done"}`)); err != nil {
		t.Fatal(err)
	}
	tio.Human().Success("for people")
	same(t, out.String(), `{"a":"<&>\n","b":[1]}`+"\n"+`{"type":"done"}`+"\n")
	same(t, errOut.String(), `{"level":"INFO","msg":"for people"}`+"\n")
	if err := tio.WriteJSON(func() {}); err == nil {
		t.Error("a function was encoded")
	}
	tio.Out = brokenWriter{}
	if err := tio.WriteJSON(1); err == nil {
		t.Error("a broken pipe was not reported")
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestFormats(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct{ got, want string }{
		{Size(-1), "0 B"}, {Size(0), "0 B"}, {Size(999), "999 B"}, {Size(1000), "1.0 kB"}, {Size(1234), "1.2 kB"},
		{Size(85_249), "85.2 kB"}, {Size(99_960), "100 kB"}, {Size(999_499), "999 kB"}, {Size(999_500), "1.0 MB"},
		{Size(381 << 20), "400 MB"}, {Size(1<<63 - 1), "9.2 EB"},
		{Duration(-1), "0 ms"}, {Duration(12 * ms), "12 ms"}, {Duration(999*ms + 600*time.Microsecond), "1 s"},
		{Duration(5100 * ms), "5.1 s"}, {Duration(59_960 * ms), "1m 00s"}, {Duration(125 * time.Second), "2m 05s"},
		{Duration(3599_600 * ms), "1h 00m"}, {Duration(200 * time.Minute), "3h 20m"}, {Duration(98 * time.Hour), "4d 2h"},
		{Dollars(0), "$0.00"}, {Dollars(0.0042), "$0.0042"}, {Dollars(1.239), "$1.24"}, {Dollars(-1), "$0.00"},
		{Truncate("日本語", 4), "日…"}, {Truncate("abc", 3), "abc"}, {Truncate("abc", 0), ""}, {Pad("日", 4), "日  "},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}

package verdict

import (
	"bytes"
	"encoding/json"
	"image"
	"image/png"
	"strings"
	"testing"
	"unicode/utf8"
)

// picture returns a PNG file.
func picture(t testing.TB, w, h int) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := png.Encode(&b, image.NewRGBA(image.Rect(0, 0, w, h))); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func report(change func(*Report)) Line {
	r := &Report{
		Verdict: Failed, Browser: "HeadlessChrome/1", Millis: 12,
		Checks: []Check{{Name: Errors, Screen: Phone, Status: Failed, Message: "Uncaught: x is not defined", File: "js/a b.js", Line: 3, Column: 4}},
	}
	change(r)
	return Line{Report: r}
}

func TestParseReadsWhatTheProgramWrites(t *testing.T) {
	for name, l := range map[string]Line{
		"ready":  {Ready: "HeadlessChrome/1"},
		"port":   {Port: 8080},
		"error":  {Error: "no browser found"},
		"report": report(func(r *Report) { r.Shots = []Shot{{Phone, picture(t, 390, 844)}, {Desktop, picture(t, 640, 360)}} }),
		"folder": report(func(r *Report) { r.Checks[0].File = "games/" }),
		"words":  report(func(r *Report) { r.Checks[0].Message = "“Größe” ist 0 – ゲーム 🎮" }),
		"passed": report(func(r *Report) { r.Verdict, r.Checks[0].Status = Passed, Unknown }),
	} {
		raw, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(append(raw, '\n'))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if again, _ := json.Marshal(got); !bytes.Equal(again, raw) {
			t.Errorf("%s: %s became %s", name, raw, again)
		}
	}
}

func TestParseRefusesWhatBreaksABound(t *testing.T) {
	header := picture(t, 1, 1)
	wide := bytes.Clone(header)
	copy(wide[16:], "\x00\x00\x20\x00")
	for name, change := range map[string]func(*Report){
		"verdict":           func(r *Report) { r.Verdict = "fine" },
		"contradiction":     func(r *Report) { r.Verdict = Passed },
		"unfounded failure": func(r *Report) { r.Checks = nil },
		"status":            func(r *Report) { r.Checks[0].Status = "" },
		"name":              func(r *Report) { r.Checks[0].Name = "mood" },
		"screen":            func(r *Report) { r.Checks[0].Screen = "watch" },
		"message length":    func(r *Report) { r.Checks[0].Message = strings.Repeat("x", MaxMessage+1) },
		"escape":            func(r *Report) { r.Checks[0].Message = "\x1b[2J" },
		"line feed":         func(r *Report) { r.Checks[0].Message = "a\nb" },
		"direction":         func(r *Report) { r.Checks[0].Message = "a\u202eb" },
		"separator":         func(r *Report) { r.Checks[0].Message = "a\u2028b" },
		"file length":       func(r *Report) { r.Checks[0].File = strings.Repeat("x", MaxPath+1) },
		"absolute file":     func(r *Report) { r.Checks[0].File = "/etc/passwd" },
		"file outside":      func(r *Report) { r.Checks[0].File = "../x" },
		"file with dots":    func(r *Report) { r.Checks[0].File = "a/../../x" },
		"root":              func(r *Report) { r.Checks[0].File = "/" },
		"line":              func(r *Report) { r.Checks[0].Line = -1 },
		"column":            func(r *Report) { r.Checks[0].Column = MaxPosition + 1 },
		"checks":            func(r *Report) { r.Checks = make([]Check, MaxChecks+1) },
		"millis":            func(r *Report) { r.Millis = -1 },
		"browser":           func(r *Report) { r.Browser = "\u0000" },
		"no picture":        func(r *Report) { r.Shots = []Shot{{Phone, []byte("GIF89a")}} },
		"empty picture":     func(r *Report) { r.Shots = []Shot{{Phone, nil}} },
		"wide picture":      func(r *Report) { r.Shots = []Shot{{Phone, wide}} },
		"large picture":     func(r *Report) { r.Shots = []Shot{{Phone, append(bytes.Clone(header), make([]byte, MaxShot)...)}} },
		"two pictures":      func(r *Report) { r.Shots = []Shot{{Phone, header}, {Phone, header}} },
	} {
		raw, err := json.Marshal(report(change))
		if err != nil {
			t.Fatal(err)
		}
		if l, err := Parse(raw); err == nil {
			t.Errorf("%s: %+v", name, l)
		}
	}
	for name, line := range map[string]string{
		"empty":        "",
		"nothing":      "{}",
		"no object":    "[]",
		"two lines":    `{"port":1}{"port":2}`,
		"two answers":  `{"port":1,"ready":"x"}`,
		"port":         `{"port":65536}`,
		"not UTF-8":    "{\"error\":\"\xff\"}",
		"long":         `{"error":"` + strings.Repeat("x", MaxLine) + `"}`,
		"many values":  `{"report":{"checks":[` + strings.Repeat(`{},`, 100000) + `{}]}}`,
		"long number":  `{"port":` + strings.Repeat("1", 1<<20) + `}`,
		"long name":    `{"report":{"checks":[{"status":"` + strings.Repeat("x", 1<<20) + `"}]}}`,
		"deep":         strings.Repeat("[", 100000),
		"ready length": `{"ready":"` + strings.Repeat("x", 200) + `"}`,
	} {
		if l, err := Parse([]byte(line)); err == nil || len(err.Error()) > MaxMessage+10 {
			t.Errorf("%s: %+v, %.100v", name, l, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, l := range []Line{{Ready: "x"}, {Port: 1}, {Error: "x"}, report(func(r *Report) { r.Shots = []Shot{{Phone, picture(f, 2, 2)}} })} {
		raw, _ := json.Marshal(l)
		f.Add(raw)
	}
	f.Add([]byte(`{"report":{"verdict":"passed","checks":[{"name":"loads","screen":"phone","status":"unknown","file":"a/"}]}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := Parse(raw)
		if err != nil {
			return
		}
		if l.Report != nil {
			if len(l.Report.Checks) > MaxChecks || len(l.Report.Shots) > MaxShots {
				t.Error("too many")
			}
			for _, c := range l.Report.Checks {
				if len(c.Message) > MaxMessage || !utf8.ValidString(c.Message) || strings.ContainsAny(c.Message, "\n\x1b\u202e") || strings.Contains(c.File, "..") && !InProject(c.File) {
					t.Errorf("%+v", c)
				}
			}
		}
		again, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(again); err != nil {
			t.Errorf("%s is not read again: %v", again, err)
		}
	})
}

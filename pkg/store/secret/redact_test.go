package secret

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
)

func TestRedactFindsEveryFormOfAValue(t *testing.T) {
	const tricky = `pa"ss<w>/ö %`
	var r Redactor
	if got := r.Redact("nothing yet"); got != "nothing yet" {
		t.Fatalf("got %q", got)
	}
	r.Remove("never added")
	r.Add("sk-ant-1234", "sk-ant-1234-longer", tricky, "abc", "", "BEGIN\nline-of-a-long-private-key\nEND")
	asJSON, _ := json.Marshal(tricky)
	for text, want := range map[string]string{
		"key sk-ant-1234.":                      "key [redacted].",
		"sk-ant-1234-longer":                    "[redacted]",
		"sk-ant-1234sk-ant-1234":                "[redacted][redacted]",
		"x" + tricky + "y":                      "x[redacted]y",
		string(asJSON):                          `"[redacted]"`,
		"?q=" + url.QueryEscape(tricky) + "&a":  "?q=[redacted]&a",
		"/" + url.PathEscape(tricky) + "/":      "/[redacted]/",
		"abc stays":                             "abc stays",
		"one line-of-a-long-private-key of it":  "one [redacted] of it",
		"END stays":                             "END stays",
		"sk-ant-123":                            "sk-ant-123",
		"BEGIN\nline-of-a-long-private-key\nEN": "BEGIN\n[redacted]\nEN",
	} {
		if got := r.Redact(text); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
		if got := r.RedactBytes([]byte(text)); string(got) != want {
			t.Errorf("bytes %q became %q, want %q", text, got, want)
		}
	}
	clean := []byte("nothing to find")
	if got := r.RedactBytes(clean); &got[0] != &clean[0] {
		t.Error("clean bytes were copied")
	}
}

func TestRemoveUndoesOneAdd(t *testing.T) {
	var r Redactor
	r.Add("token-1", "token-2", "token-2")
	r.Remove("token-1", "token-2")
	if got := r.Redact("token-1 token-2"); got != "token-1 [redacted]" {
		t.Fatalf("got %q", got)
	}
}

type stringer struct{ s string }

func (s stringer) String() string { return s.s }

type valuer struct{ s string }

func (v valuer) LogValue() slog.Value { return slog.GroupValue(slog.String("inner", v.s)) }

type marshaler struct{ s string }

func (m marshaler) String() string               { return "hidden" }
func (m marshaler) MarshalJSON() ([]byte, error) { return json.Marshal(m.s) }

func TestHandlerRedactsMessagesAndAttributesOfAnyType(t *testing.T) {
	const key = "sk-ant-needle"
	attrs := map[string]any{
		"string": key, "error": fmt.Errorf("bad: %w", errors.New(key)), "stringer": stringer{key},
		"struct": struct{ Key string }{key}, "pointer": &struct{ Key string }{key}, "bytes": []byte(key), "map": map[string]string{"k": key},
		"list": []string{key}, "valuer": valuer{key}, "group": slog.GroupValue(slog.Any("deep", errors.New(key))),
		"raw": json.RawMessage(`{"k":"` + key + `"}`), "marshaler": marshaler{key}, "n" + key: 1,
	}
	for _, format := range []string{"text", "json"} {
		for name, value := range attrs {
			t.Run(format+" "+name, func(t *testing.T) {
				var out bytes.Buffer
				var next slog.Handler = slog.NewTextHandler(&out, nil)
				if format == "json" {
					next = slog.NewJSONHandler(&out, nil)
				}
				var r Redactor
				r.Add(key)
				log := slog.New(r.Handler(next))
				log.Info("message "+key, name, value, "count", 3)
				log.With(name, value).WithGroup("g").Error("again", name, value)
				text := out.String()
				if strings.Contains(text, "needle") || !strings.Contains(text, Redacted) || strings.Count(text, "\n") != 2 {
					t.Fatal(text)
				}
				if !strings.Contains(text, "count") || !strings.Contains(text, "again") {
					t.Fatalf("clean text was removed: %s", text)
				}
			})
		}
	}
}

func TestHandlerKeepsLevelsAndCleanValues(t *testing.T) {
	var out bytes.Buffer
	var r Redactor
	r.Add("sk-ant-needle")
	log := slog.New(r.Handler(slog.NewJSONHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn})))
	log.Info("not shown")
	log.Warn("shown", "object", map[string]int{"a": 1}, "n", 2, "err", errors.New("plain"))
	if got := out.String(); strings.Contains(got, "not shown") || !strings.Contains(got, `"object":{"a":1},"n":2,"err":"plain"`) {
		t.Fatal(got)
	}
}

func TestRedactorIsSafeForConcurrentUse(t *testing.T) {
	var r Redactor
	r.Add("constant-secret")
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			token := fmt.Sprintf("token-of-job-%d", i)
			for range 200 {
				r.Add(token)
				if got := r.Redact("constant-secret " + token); got != "[redacted] [redacted]" {
					t.Errorf("got %q", got)
				}
				r.Remove(token)
			}
		})
	}
	all.Wait()
}

func TestEncodedValuesAreRedacted(t *testing.T) {
	const value = "a-key-of-22-letters-??"
	var r Redactor
	r.Add(value)
	for _, text := range []string{
		hex.EncodeToString([]byte(value)), base64.StdEncoding.EncodeToString([]byte(value)), base64.URLEncoding.EncodeToString([]byte(value)),
		base64.StdEncoding.EncodeToString([]byte(value + " and more")),
	} {
		if got := r.Redact("<" + text); !strings.HasPrefix(got, "<"+Redacted) || strings.Contains(got, text[:8]) {
			t.Errorf("%s became %s", text, got)
		}
	}
}

func TestAFollowerIsCalledBeforeAddReturns(t *testing.T) {
	var r Redactor
	r.Add("first")
	var known []string
	r.Follow(func(values []string) { known = slices.Sorted(slices.Values(values)) })
	for _, step := range []struct {
		do   func()
		want []string
	}{
		{func() {}, []string{"first"}},
		{func() { r.Add("second", "third") }, []string{"first", "second", "third"}},
		{func() { r.Remove("first") }, []string{"second", "third"}},
		{func() { r.Follow(nil); r.Add("fourth") }, []string{"second", "third"}},
	} {
		if step.do(); !slices.Equal(known, step.want) {
			t.Errorf("the follower has %q, want %q", known, step.want)
		}
	}
}

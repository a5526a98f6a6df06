package upstream

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func TestOnlyTheModelOfBodyChanges(t *testing.T) {
	for in, want := range map[string]string{
		`{"model":"a"}`: `{"model":"NEW \"x\""}`,
		"\n{ \"z\" : 1e400,\t\"model\" :\n\"a\" , \"model2\":{\"model\":\"a\"},\"n\":[1.10,\"\\u00e9\"]} ": "\n{ \"z\" : 1e400,\t\"model\" :\n\"NEW \\\"x\\\"\" , \"model2\":{\"model\":\"a\"},\"n\":[1.10,\"\\u00e9\"]} ",
		`{"mod\u0065l":"a","b":[{"model":"a"}]}`:                                                           `{"mod\u0065l":"NEW \"x\"","b":[{"model":"a"}]}`,
		`{"b":1}`:                                                                                          `{"b":1}`,
	} {
		if got := string(withModel([]byte(in), `NEW "x"`)); got != want {
			t.Errorf("%s\nbecame %s\nwant   %s", in, got, want)
		}
	}
	big := `{"messages":"` + strings.Repeat("x", 1<<20) + `","model":"a","tail":0.1000}`
	if got := string(withModel([]byte(big), "b")); got != strings.Replace(big, `"a"`, `"b"`, 1) {
		t.Error("a large body")
	}
}

func TestMembersOfBodyAreReplaced(t *testing.T) {
	in := []byte(` { "anthropic_version":"x", "a" : 1.50 ,"model":"m", "b":{"model":"n"},"anthropic_version":2 } `)
	got := string(without(in, []string{"model"}, map[string][]byte{"anthropic_version": []byte(`"v"`), "anthropic_beta": []byte(`["y"]`)}))
	if want := `{"anthropic_beta":["y"],"anthropic_version":"v","a" : 1.50,"b":{"model":"n"}}`; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if got := string(without([]byte(`{"model":1}`), []string{"model"}, nil)); got != `{}` {
		t.Errorf("%s", got)
	}
}

func FuzzBody(f *testing.F) {
	f.Add([]byte(`{"model":"a","x":[1,{"model":2}],"s":"\"}"}`))
	f.Add([]byte(` {"mod\u0065l" : "a" }`))
	f.Add([]byte(`[1]`))
	f.Fuzz(func(t *testing.T, in []byte) {
		if !json.Valid(in) {
			return
		}
		var before map[string]any
		if json.Unmarshal(in, &before) != nil || before == nil {
			return
		}
		out := withModel(in, "new")
		var after map[string]any
		if err := json.Unmarshal(out, &after); err != nil {
			t.Fatalf("%q became %q: %v", in, out, err)
		}
		if _, ok := before["model"]; ok && bytes.Count(in, []byte("model")) == 1 {
			before["model"] = "new"
		}
		if bytes.Count(in, []byte("model")) == 1 && !bytes.Contains(in, []byte(`\u`)) && !reflect.DeepEqual(before, after) {
			t.Errorf("%q became %q", in, out)
		}
		var cut map[string]any
		if err := json.Unmarshal(without(in, []string{"model"}, map[string][]byte{"anthropic_version": []byte(`"v"`)}), &cut); err != nil || cut["anthropic_version"] != "v" {
			t.Errorf("%q: %v", in, err)
		}
		if _, ok := cut["model"]; ok {
			t.Errorf("%q kept its model", in)
		}
	})
}

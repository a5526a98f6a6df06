package usage

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// byJSON decodes a line with encoding/json.
func byJSON(line []byte) (r Record, ok bool) {
	ok = json.Unmarshal(line, &r) == nil && r.valid()
	if !ok {
		r = Record{}
	}
	return r, ok
}

// plainLine is a typical line.
const plainLine = `{"t":"2026-11-05T12:00:00.25Z","user":"a11ce000-0000-4000-8000-000000000001","project":"p","job":"j","model":"m","upstream":"up","n":1,"in":4807,"out":1,"cw":2,"cw1h":3,"cr":21165,"nano":1234567,"est":true}`

func TestEncodedRecordsAreDecodedFast(t *testing.T) {
	for _, r := range []Record{
		{Time: time.Date(2026, 11, 5, 12, 0, 0, 123e6, time.UTC), User: "u", Project: "p", Job: "j", Model: "m"},
		{Time: time.Date(2026, 11, 5, 0, 0, 0, 0, time.UTC), Requests: 1, Input: 1, Output: 2, CacheWrite: 3, CacheWrite1h: 4, CacheRead: maxCount, Cost: 1e17, Estimated: true, Moved: true, Upstream: "x"},
	} {
		line, err := r.encode()
		if err != nil {
			t.Fatal(err)
		}
		var d decoder
		if !d.decodeFast(bytes.TrimSpace(line)) || d.rec != r {
			t.Errorf("%s\nis %+v", line, d.rec)
		}
	}
	var d decoder
	if !d.decodeFast([]byte(plainLine)) || !d.rec.Estimated || d.rec.CacheWrite1h != 3 {
		t.Errorf("%+v", d.rec)
	}
	// Neither an earlier record nor the half of a failed fast decoding may leave
	// anything behind.
	if r, ok := d.decode([]byte(`{"t":"2026-11-05T12:00:00Z","user":"v","project":"","job":"","model":"","n":1, "nano":5}`)); !ok || r != (Record{Time: time.Date(2026, 11, 5, 12, 0, 0, 0, time.UTC), User: "v", Requests: 1, Cost: 5}) {
		t.Errorf("%+v", r)
	}
}

// FuzzDecode compares the fast decoder with encoding/json.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(plainLine))
	for _, change := range [][2]string{
		{`"user"`, `"User"`}, {`"cr":`, `"cr": `}, {`,"n":1`, ""}, {`,"n":1`, `,"n":1,"n":0`}, {"4807", "007"}, {"4807", "-0"}, {"4807", "1e3"}, {"4807", ""},
		{"4807", "9999999999999999999"}, {"1234567", "9223372036854775807"}, {"1234567", "99999999999999999999"}, {`"m"`, `"\u00e4\n"`}, {`"m"`, `"ä"`}, {`"m"`, "\"\xff\""},
		{`"m"`, "\"a\tb\""}, {`"m"`, `null`}, {`"m"`, `"m`}, {"12:00:00.25Z", "12:00:00+02:00"}, {"12:00:00.25Z", "24:00:00Z"}, {"2026", "0001"}, {`"est":true`, `"est":false`},
		{`true}`, `true},`}, {`true}`, `true`}, {`,"upstream":"up"`, ""}, {`,"job":"j"`, ""}, {"T12", `\u005412`}, {"\"m\"", "\"m\x7f\""},
	} {
		f.Add([]byte(strings.Replace(plainLine, change[0], change[1], 1)))
	}
	var d decoder // shared: earlier lines must not matter
	f.Fuzz(func(t *testing.T, line []byte) {
		got, ok := d.decode(line)
		want, wantOK := byJSON(line)
		if ok != wantOK || ok && (!got.Time.Equal(want.Time) || dayOf(got.Time) != dayOf(want.Time)) {
			t.Fatalf("%q: %+v %v, want %+v %v", line, got, ok, want, wantOK)
		}
		if got.Time, want.Time = (time.Time{}), (time.Time{}); ok && got != want {
			t.Fatalf("%q: %+v, want %+v", line, got, want)
		}
	})
}

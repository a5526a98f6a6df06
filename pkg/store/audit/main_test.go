package audit

import (
	"fmt"
	"os"
	"strconv"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "record" {
		record(os.Args[2], os.Args[3])
	}
	goleak.VerifyTestMain(m)
}

// record runs a process that writes 500 records into a log that is rotated often,
// and exits without closing it.
func record(dir, who string) {
	l, err := Open(dir, Options{MaxBytes: 20_000, MaxFiles: 1000})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for i := range 500 {
		l.Record(Entry{Event: EventModel, User: who, Job: strconv.Itoa(i), Verdict: Allowed})
	}
	os.Exit(0)
}

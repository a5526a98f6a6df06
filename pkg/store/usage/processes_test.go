package usage

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

// For two months, several processes whose clocks differ by days use a ledger that
// is damaged in every way: each must count every record once.
func TestEveryProcessCountsEveryRecordOnce(t *testing.T) {
	rounds := 6
	if testing.Short() {
		rounds = 2
	}
	for round := range rounds {
		seed := rand.Uint64()
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, uint64(round)))
			dir, now := t.TempDir(), at("2026-10-24T10:00:00Z")
			late := []time.Duration{0, 0, 20 * time.Hour, 100 * time.Hour}
			var clocks []*clock
			var ledgers []*Ledger
			open := func(i int) *Ledger {
				b, err := Open(dir, Options{Prices: prices(t, "m in=1 out=1 write=1 read=1"), Now: clocks[i].now, Days: 400})
				if err != nil {
					t.Fatal(err)
				}
				return b
			}
			tick := func(d time.Duration) {
				now = now.Add(d)
				for i, c := range clocks {
					n := now.Add(-late[i])
					c.at.Store(&n)
				}
			}
			for i := range late {
				clocks = append(clocks, newClock("2026-10-24T10:00:00Z"))
				tick(0)
				ledgers = append(ledgers, open(i))
			}
			for range 150 {
				i := rng.IntN(len(ledgers))
				switch rng.IntN(12) {
				case 0:
					tick(time.Duration(rng.IntN(70*60)) * time.Minute)
				case 1, 2:
					tick(time.Duration(rng.IntN(5*60)) * time.Minute)
				case 3:
					if err := ledgers[i].Close(); err != nil {
						t.Fatal(err)
					}
					ledgers[i] = open(i)
				case 4:
					damage(t, rng, dir, now)
				case 5:
					wantSums(t, dir, clocks[i])
				default:
					j := ledgers[i].Job(fmt.Sprint("u", rng.IntN(4)), "p", "j")
					update, err := j.Reserve("m", 10, 10)
					if err != nil {
						t.Fatal(err)
					}
					tokens := dreamcore.Tokens{Input: rng.Int64N(1000)}
					update(dreamcore.Spent{Tokens: tokens}, false)
					tokens.Output = rng.Int64N(1000)
					update(dreamcore.Spent{Tokens: tokens}, true)
				}
			}
			// A process that begins a new day also counts late records.
			tick(30 * time.Hour)
			for i, b := range ledgers {
				if diff := cmp.Diff(sumOfRecords(t, dir, clocks[i].now()), ledgerSums(t, b), cmp.AllowUnexported(sum{})); diff != "" {
					t.Errorf("process %d, at %s:\n%s", i, clocks[i].now(), diff)
				}
				if err := b.Close(); err != nil {
					t.Error(err)
				}
			}
			wantSums(t, dir, clocks[0])
		})
	}
}

// damage changes the files of a ledger as accidents would.
func damage(t *testing.T, rng *rand.Rand, dir string, now time.Time) {
	day := dayOf(now.AddDate(0, 0, -rng.IntN(8)))
	files := sumsFiles(t, dir)
	kind := rng.IntN(9)
	if kind > 4 && len(files) == 0 {
		kind = 0
	}
	switch kind {
	case 0: // a torn line
		appendTo(t, dir, day, "\n{\"t\":\"2026-11-05T12:00:00Z\",\"user\":\"u\",\"nano\":99")
	case 1: // a valid record in another notation, of the day before but the same month
		hour := "00"
		if strings.HasSuffix(day, "-01") {
			hour = "12"
		}
		appendTo(t, dir, day, "\n{\"nano\": 70000, \"t\": \""+day+"T"+hour+":30:00+02:00\", \"user\": \"\\u00e4\\n\", \"in\": 5, \"more\": []}\n")
	case 2: // a late record
		appendTo(t, dir, day, lineOf(t, Record{Time: at(day + "T23:59:59Z"), User: "u1", Input: 3, Cost: 3}))
	case 3: // lines that are not records
		appendTo(t, dir, day, "\x00\x00\xff\n"+strings.Repeat("x", 3*maxLine)+"\n{}\n")
	case 4: // counts that a sum cannot hold, and a name that is too long to write
		appendTo(t, dir, day, fmt.Sprintf("\n{\"t\":\"%[1]sT01:00:00Z\",\"user\":\"u2\",\"in\":%[2]d,\"nano\":1}\n{\"t\":\"%[1]sT01:00:00Z\",\"user\":\"u2\",\"in\":%[2]d,\"nano\":1}\n{\"t\":\"%[1]sT01:00:00Z\",\"user\":\"%[3]s\",\"nano\":1}\n", day, int64(maxCount), strings.Repeat("long", 100)))
	case 5:
		b, err := os.ReadFile(files[0])
		if err != nil || len(b) == 0 {
			return
		}
		b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
		if err := os.WriteFile(files[0], b, fileMode); err != nil {
			t.Fatal(err)
		}
	case 6:
		if err := os.Truncate(files[0], rng.Int64N(200)); err != nil {
			t.Fatal(err)
		}
	case 7: // the sums of another day
		if b, err := os.ReadFile(files[0]); err != nil || os.WriteFile(files[rng.IntN(len(files))], b, fileMode) != nil {
			t.Fatal(err)
		}
	case 8: // an unfinished file of a process that died
		if err := os.WriteFile(files[0]+".LEFT", []byte("half"), fileMode); err != nil {
			t.Fatal(err)
		}
	}
}

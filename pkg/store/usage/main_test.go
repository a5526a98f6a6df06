package usage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/notef-neighbor/dreamcore/pkg/dreamcore"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "spend-forever" {
		spendForever(os.Args[2])
	}
	if len(os.Args) == 4 && os.Args[1] == "open-forever" {
		openForever(os.Args[2], newClock(os.Args[3]))
	}
	goleak.VerifyTestMain(m)
}

// spendForever runs a process that spends a thousandth of a dollar at a time, and
// prints a line for each amount once it is in the ledger.
func spendForever(dir string) {
	p, err := ParsePrices([]string{"m in=1 out=1"})
	if err == nil {
		var b *Ledger
		if b, err = Open(dir, Options{Prices: p}); err == nil {
			j := b.Job("u", "p", "j")
			for {
				update, err := j.Reserve("m", 1000, 0)
				if err != nil {
					break
				}
				update(dreamcore.Spent{Tokens: dreamcore.Tokens{Input: 1000}}, false)
				fmt.Println("spent")
				update(dreamcore.Spent{Tokens: dreamcore.Tokens{Input: 1000}}, true)
			}
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// openForever runs a process that removes the sums of a ledger and opens it, in a
// loop. It prints a line when it begins.
func openForever(dir string, c *clock) {
	fmt.Println("go")
	for {
		b, err := Open(dir, Options{Now: c.now})
		if err == nil {
			err = b.Close()
		}
		names, _ := filepath.Glob(filepath.Join(dir, "*"+sumsExtension))
		for _, name := range names {
			err = errors.Join(err, os.Remove(name))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}
